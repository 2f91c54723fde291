"""Does cleaning invent jumps? Real keypoints before and after `fill_gaps` and `resample_to_grid`, in numbers and pictures.

    python benchmarks/keypoints.py --body25 skeleton_full.npy --body25-fps 30 --coco17 nor_k_feat/*.npy --out docs/results

--body25: (3, T, 25, 1), x, y, confidence. --coco17: (T, 34), x and y of each joint, 60 fps. Where they come from:
docs/results/keypoints.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.motion.cleaning import fill_gaps, grid_frames, resample_to_grid
from momu_dist.core.motion.skeleton import JOINT_NAMES, LIMBS, body25_to_14, coco17_to_14
from momu_dist.data.features import MIN_CONF

COCO_FPS = 60.0
REACH_FRAMES = 3  # the resampling kernel sees this many frames to each side
MOVES = 0.1  # a joint moves where it is faster than this share of its fastest
GREY, BLUE, ORANGE = "#4d4d4d", "#0072b2", "#d55e00"


class Clip(NamedTuple):
    """joints (T, 14, 3) as measured at fps: x, y, confidence; clean (T', 14, 2) at 62.5 Hz."""

    name: str
    joints: NDArray[np.float64]
    fps: float
    clean: NDArray[np.float64]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which joints (T, 14) were measured."""
        seen: NDArray[np.bool_] = self.joints[..., 2] >= MIN_CONF
        return seen


class Jumps(NamedTuple):
    """Largest displacements, raw between neighbouring measurements and clean between grid frames, and their ratios.

    raw_s, clean_s: the largest of any joint, a second, in the data's unit. joint: worst ratio of a joint's own largest two,
    a second; step: the same of the displacements themselves, from one frame to the next; local: worst ratio of a
    clean displacement to the largest raw one within the kernel's reach, where the joint moves.
    """

    raw_s: float
    clean_s: float
    joint: float
    which: str
    step: float
    local: float


def load_body25(path: Path, fps: float) -> Clip:
    """A clip from (3, T, 25, 1)."""
    array = np.load(path, allow_pickle=False)
    return _clip(path.stem, body25_to_14(np.moveaxis(array[..., 0], 0, -1)), fps)


def load_coco17(path: Path) -> Clip:
    """A clip from (T, 34) at 60 fps; every joint that is finite counts as measured."""
    xy = np.load(path, allow_pickle=False).reshape(-1, 17, 2)
    conf = np.isfinite(xy).all(axis=2, keepdims=True).astype(float)
    return _clip(path.stem, coco17_to_14(np.concatenate([xy, conf], axis=2)), COCO_FPS)


def _clip(name: str, joints: NDArray[np.float64], fps: float) -> Clip:
    filled = fill_gaps(joints[..., :2], joints[..., 2], MIN_CONF)
    return Clip(name, joints, fps, resample_to_grid(filled, fps, grid_frames(len(joints) / fps)))


def jumps(clip: Clip) -> Jumps:
    """The largest displacements of a clip before and after cleaning."""
    clean_s = np.linalg.norm(np.diff(clip.clean, axis=0), axis=2) * MEL_RATE_HZ
    raw_most, local_most = np.zeros(14), np.zeros(14)
    raw_step = np.zeros(14)
    for joint in range(14):
        at = np.flatnonzero(clip.seen[:, joint])
        step = np.linalg.norm(np.diff(clip.joints[at, joint, :2], axis=0), axis=1)
        speed_s = step / np.diff(at) * clip.fps
        raw_most[joint], raw_step[joint] = speed_s.max(), (step / np.diff(at)).max()
        moving = np.flatnonzero(clean_s[:, joint] > MOVES * clean_s[:, joint].max())
        begin = (moving + 0.5) / MEL_RATE_HZ * clip.fps - REACH_FRAMES
        end = (moving + 1.5) / MEL_RATE_HZ * clip.fps + REACH_FRAMES
        first = np.maximum(np.searchsorted(at, begin, side="right") - 1, 0)
        last = np.minimum(np.searchsorted(at, end, side="left"), len(at) - 1)
        nearby = np.array([speed_s[a : max(b, a + 1)].max() for a, b in zip(first, last, strict=True)])
        local_most[joint] = (clean_s[moving, joint] / nearby).max()
    ratios = clean_s.max(axis=0) / raw_most
    steps = clean_s.max(axis=0) / MEL_RATE_HZ / raw_step
    return Jumps(
        float(raw_most.max()), float(clean_s.max()), float(ratios.max()),
        JOINT_NAMES[int(ratios.argmax())], float(steps.max()), float(local_most.max()),
    )  # fmt: skip


def _longest_gap_s(clip: Clip) -> float:
    """The longest time, s, for which a joint is not detected between two detections."""
    gaps = [np.diff(np.flatnonzero(clip.seen[:, joint])).max() - 1 for joint in range(14)]
    return float(max(gaps)) / clip.fps


def table(clips: Sequence[Clip]) -> str:
    """The numbers of all clips as a Markdown table."""
    lines = [
        "| clip | frames | fps | missing | longest gap, s | raw, 1/s | clean, 1/s | clean / raw "
        "| worst joint, a frame | worst joint, 1/s | local |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for clip in clips:
        found = jumps(clip)
        lines.append(
            f"| {clip.name} | {len(clip.joints)} | {clip.fps:g} | {1 - clip.seen.mean():.1%} | {_longest_gap_s(clip):.2f} "
            f"| {found.raw_s:.1f} | {found.clean_s:.1f} | {found.clean_s / found.raw_s:.2f} "
            f"| {found.step:.2f} | {found.joint:.2f} ({found.which}) | {found.local:.2f} |"
        )
    return "\n".join(lines)


def draw_traces(path: Path, panels: Sequence[tuple[Clip, str, float, float]]) -> None:
    """Draws x of a joint over time, measured and cleaned, for each (clip, joint, from s, to s)."""
    figure = Figure(figsize=(10, 2.4 * len(panels)), dpi=80, layout="constrained")
    for axes, (clip, name, from_s, to_s) in zip(
        np.atleast_1d(figure.subplots(len(panels), 1)), panels, strict=True
    ):
        joint = JOINT_NAMES.index(name)
        raw_s, clean_s = (
            np.arange(len(clip.joints)) / clip.fps,
            (np.arange(len(clip.clean)) + 0.5) / MEL_RATE_HZ,
        )
        shown, kept = (raw_s >= from_s) & (raw_s <= to_s), (clean_s >= from_s) & (clean_s <= to_s)
        for t in raw_s[shown & ~clip.seen[:, joint]]:
            axes.axvspan(t - 0.5 / clip.fps, t + 0.5 / clip.fps, color="#eeeeee", linewidth=0)
        measured = shown & clip.seen[:, joint]
        axes.plot(
            raw_s[measured],
            clip.joints[measured, joint, 0],
            "o",
            color=ORANGE,
            markersize=3,
            label="measured",
        )
        axes.plot(clean_s[kept], clip.clean[kept, joint, 0], color=BLUE, linewidth=1.2, label="cleaned")
        axes.set(xlim=(from_s, to_s), ylabel="x", title=f"{clip.name}: {name} (grey: not detected)")
        axes.legend(loc="upper right", fontsize=8)
    axes.set_xlabel("time (s)")
    figure.savefig(path)


def draw_poses(path: Path, panels: Sequence[tuple[Clip, float, float]], n: int = 14) -> None:
    """Draws `n` cleaned poses of each (clip, from s, to s) side by side, each around its own middle."""
    figure = Figure(figsize=(10, 2.0 * len(panels)), dpi=80, layout="constrained")
    for axes, (clip, from_s, to_s) in zip(
        np.atleast_1d(figure.subplots(len(panels), 1)), panels, strict=True
    ):
        _poses(axes, clip, np.linspace(from_s, to_s, n))
    figure.savefig(path)


def _poses(axes: Axes, clip: Clip, times_s: NDArray[np.float64]) -> None:
    poses = clip.clean[np.clip(np.round(times_s * MEL_RATE_HZ - 0.5).astype(int), 0, len(clip.clean) - 1)]
    poses = poses - poses.mean(axis=1, keepdims=True)
    apart = 1.1 * 2 * np.percentile(np.abs(poses[..., 0]), 98)
    poses[..., 0] += apart * np.arange(len(poses))[:, None]
    for parent, child in LIMBS:
        side = {"R": ORANGE, "L": BLUE}.get(JOINT_NAMES[child][0], GREY)
        lines = np.stack([poses[:, parent], poses[:, child]], axis=1)
        axes.add_collection(LineCollection(list(lines), colors=side, linewidths=2, capstyle="round"))
    axes.set(xlim=(-apart, apart * len(poses)), title=f"{clip.name}, {times_s[0]:.1f} to {times_s[-1]:.1f} s")
    axes.set_ylim(np.percentile(poses[..., 1], 99.5) * 1.15, np.percentile(poses[..., 1], 0.5) * 1.15)
    axes.set_aspect("equal")
    axes.set_axis_off()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--body25", type=Path, required=True)
    parser.add_argument("--body25-fps", type=float, default=30.0)
    parser.add_argument("--coco17", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for keypoints-traces.png and keypoints-poses.png"
    )
    options = parser.parse_args()
    skating = load_body25(options.body25, options.body25_fps)
    dances = [load_coco17(path) for path in sorted(options.coco17)]
    print(table([skating, *dances]))
    options.out.mkdir(parents=True, exist_ok=True)
    worst = max(dances, key=lambda clip: jumps(clip).joint)
    place = jumps(worst).which
    speed = np.linalg.norm(np.diff(worst.clean[:, JOINT_NAMES.index(place)], axis=0), axis=1)
    fastest_s = float(speed.argmax()) / MEL_RATE_HZ
    broken, middle_s = _most_broken(skating)
    draw_traces(
        options.out / "keypoints-traces.png",
        [(skating, broken, middle_s - 2, middle_s + 2), (worst, place, fastest_s - 1.0, fastest_s + 1.0)],
    )
    draw_poses(
        options.out / "keypoints-poses.png",
        [(skating, middle_s - 2, middle_s + 2), (worst, fastest_s - 1.0, fastest_s + 1.0)],
    )


def _most_broken(clip: Clip, window_s: float = 4.0) -> tuple[str, float]:
    """The joint and the middle, s, of the window in which a joint is lost most often."""
    lost = np.diff(clip.seen.astype(int), axis=0) < 0
    width = round(window_s * clip.fps)
    counts = np.stack([np.convolve(lost[:, joint], np.ones(width), "valid") for joint in range(14)])
    joint, first = np.unravel_index(int(counts.argmax()), counts.shape)
    return JOINT_NAMES[int(joint)], (float(first) + width / 2) / clip.fps


if __name__ == "__main__":
    main()
