"""The body of the dancer: poses by style, steps between them at the move times, limbs of constant length."""

from __future__ import annotations

import numpy as np

from momu_dist.data.sources.synthetic.styles import Score

FRAME_PX = (500, 400)

# A pose: pelvis right and down (px), lean and head tilt (degrees clockwise), then for each side upper arm
# and forearm (degrees from straight down, outwards), then for each foot its place (px outwards) and lift
# (px). Front view.
POSE = (
    "x",
    "drop",
    "lean",
    "head",
    "r_up",
    "r_fore",
    "l_up",
    "l_fore",
    "r_foot",
    "r_lift",
    "l_foot",
    "l_lift",
)

_POSES: dict[str, np.ndarray] = {
    "pop": np.array([
        [-11, 9, -5, -6, 138, 165, 24, 60, 22, 0, 20, 0],
        [11, 3, 5, 6, 24, 60, 138, 165, 20, 0, 22, 0],
        [-8, 10, -3, 4, 80, 150, 80, 20, 24, 0, 20, 0],
        [8, 2, 3, -4, 80, 20, 80, 150, 20, 0, 24, 0],
    ]),
    "shuffle": np.array([
        [-9, 4, 4, 5, 62, 150, 20, -35, 16, 0, 34, 22],
        [9, 4, -4, -5, 20, -35, 62, 150, 34, 22, 16, 0],
        [-5, 12, 6, -5, 95, 95, 25, 120, 28, 0, 18, 0],
        [5, 3, -6, 5, 25, 120, 95, 95, 18, 0, 28, 0],
    ]),
    "one_drop": np.array([
        [-6, 17, 3, 8, 40, 138, 40, 138, 26, 0, 26, 0],
        [6, 2, -3, -6, 28, 25, 28, 25, 24, 0, 24, 0],
        [7, 17, -3, 8, 52, 128, 34, 145, 26, 0, 26, 0],
        [-7, 2, 3, -6, 20, 30, 34, 20, 24, 0, 24, 0],
    ]),
    "hip_hop": np.array([
        [-12, 14, -9, 7, 92, 92, 92, 92, 34, 0, 30, 0],
        [10, 6, 8, -7, 28, -62, 28, -62, 26, 0, 34, 0],
        [12, 15, 9, -7, 92, 178, 88, 10, 30, 0, 34, 0],
        [-10, 6, -8, 7, 30, -50, 95, 175, 34, 0, 26, 0],
    ]),
}  # fmt: skip
_NAMES = tuple(_POSES)

_NECK_NOSE, _TORSO, _SHOULDER, _HIP = 27.0, 64.0, 21.0, 12.0
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 35.0, 33.0, 50.0, 48.0
_STAND = 94.0


def dance(
    score: Score, rng: np.random.Generator, clip_s: float, fps: float, jitter_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Joints (T,14,2) px, y downwards, frame i at i/fps s, and their confidence (T,14).

    Each move is a step 1 - (1 + a u) exp(-a u) from the last pose to the next, a in 16..20 per second, so
    acceleration is largest at the moment of the move. Bones keep their length; `jitter_px` is the detector's
    noise (std a coordinate).
    """
    n_frames = int(round(clip_s * fps))
    time_s = np.arange(n_frames) / fps
    targets = _targets(score, rng)
    rate = float(rng.uniform(16.0, 20.0))
    u = np.maximum(time_s[None, :] - score.moves_s[:, None], 0.0) * rate
    steps = 1.0 - (1.0 + u) * np.exp(-u)
    pose = targets[0] + steps.T @ np.diff(targets, axis=0)
    pose += _sway(rng, time_s)
    joints = _joints(pose)
    joints *= float(rng.uniform(0.92, 1.08))
    joints += np.array([FRAME_PX[0] / 2 + rng.uniform(-40, 40), FRAME_PX[1] - 60 + rng.uniform(-15, 15)])
    joints += jitter_px * rng.standard_normal(joints.shape)
    conf = rng.uniform(0.8, 1.0, size=joints.shape[:2])
    return joints.astype(np.float32), conf.astype(np.float32)


def _targets(score: Score, rng: np.random.Generator) -> np.ndarray:
    """Poses (moves + 1, 12): alternating within the style's pairs, the pair by bar, each a little different."""
    poses = _POSES[_NAMES[score.style]].astype(float)
    size = rng.uniform(0.85, 1.1)
    n_moves = len(score.moves_s)
    # Alternating sides make each move a large one; the pair changes with the bar, so long phrases are not a
    # loop of two.
    pair = np.concatenate([[0], (score.moves_place >= 8).astype(int)])
    index = 2 * pair + np.arange(n_moves + 1) % 2
    targets = poses.mean(axis=0) + size * (poses[index] - poses.mean(axis=0))
    spread = np.array([1.5, 1, 1, 1.5, 6, 6, 6, 6, 1, 0, 1, 0])
    return targets + spread * rng.standard_normal(targets.shape)


def _sway(rng: np.random.Generator, time_s: np.ndarray) -> np.ndarray:
    """Slow weight shifts (T,12), below 0.35 Hz: visible, and far too gentle to count as a move."""
    sway = np.zeros((len(time_s), len(POSE)))
    for column, size in ((0, 5.0), (2, 1.5), (3, 3.0), (4, 3.0), (6, 3.0)):
        hz, phase = rng.uniform(0.1, 0.35), rng.uniform(0, 2 * np.pi)
        sway[:, column] = size * np.sin(2 * np.pi * hz * time_s + phase)
    return sway


def _down(angle_deg: np.ndarray, side: float) -> np.ndarray:
    """Unit vectors (T,2) at an angle from straight down, outwards to `side` (-1 the image's left)."""
    angle = np.deg2rad(angle_deg)
    return np.stack([side * np.sin(angle), np.cos(angle)], axis=-1)


def _joints(pose: np.ndarray) -> np.ndarray:
    """Joints (T,14,2) of poses (T,12), the ground under the dancer at (0, 0), y downwards."""
    column = {name: pose[:, k] for k, name in enumerate(POSE)}
    pelvis = np.stack([column["x"], column["drop"] - _STAND], axis=-1)
    lean = np.deg2rad(column["lean"])
    up = np.stack([np.sin(lean), -np.cos(lean)], axis=-1)
    across = np.stack([np.cos(lean), np.sin(lean)], axis=-1)
    neck = pelvis + _TORSO * up
    nod = lean + np.deg2rad(column["head"])
    nose = neck + _NECK_NOSE * np.stack([np.sin(nod), -np.cos(nod)], axis=-1)
    joints = np.empty((len(pose), 14, 2))
    joints[:, 0], joints[:, 1] = nose, neck
    # The dancer faces us: their right side is on the image's left.
    for name, side, arm, leg in (("r", -1.0, 2, 8), ("l", 1.0, 5, 11)):
        shoulder = neck + side * _SHOULDER * across + 4.0 * -up
        elbow = shoulder + _UPPER_ARM * _down(column[f"{name}_up"], side)
        wrist = elbow + _FOREARM * _down(column[f"{name}_fore"], side)
        hip = pelvis + side * _HIP * across
        foot = np.stack([side * column[f"{name}_foot"], -np.maximum(column[f"{name}_lift"], 0.0)], axis=-1)
        knee, ankle = _leg(hip, foot, side)
        joints[:, arm : arm + 3] = np.stack([shoulder, elbow, wrist], axis=1)
        joints[:, leg : leg + 3] = np.stack([hip, knee, ankle], axis=1)
    return joints


def _leg(hip: np.ndarray, foot: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Knee and ankle (T,2) by the law of cosines, knee outwards; a foot out of reach is pulled in."""
    span = foot - hip
    length = np.linalg.norm(span, axis=-1, keepdims=True)
    along = span / np.maximum(length, 1e-9)
    length = np.clip(length, abs(_THIGH - _SHIN) + 1.0, 0.998 * (_THIGH + _SHIN))
    reach = (_THIGH**2 - _SHIN**2 + length**2) / (2 * length)
    outwards = side * np.stack([along[:, 1], -along[:, 0]], axis=-1)
    knee = hip + reach * along + np.sqrt(np.maximum(_THIGH**2 - reach**2, 0.0)) * outwards
    return knee, hip + length * along
