"""From tracked keypoints at the camera's rate to gap-free motion on the mel grid."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from momu_dist.core.audio.mel import HOP, MEL_RATE_HZ, SAMPLE_RATE
from momu_dist.core.motion.skeleton import JOINT_NAMES
from momu_dist.errors import ClipError

# Kaiser-windowed sinc, in units of the slower of the two sampling periods. Low enough beyond half the motion's rate
# that the images of white jitter, whose beating with the grid is the false 2.5 Hz pulse at 60 fps, vanish (a line of
# 200-700 times its neighbourhood with linear interpolation, none here); short and soft enough to overshoot a jump by
# 4 %, where sharper kernels with 5 or 6 periods on each side overshot by 7 %. Passes .99 at 5 Hz and .96 at 8 Hz from
# 60 fps, .93 at 4 Hz from 25 fps.
_CUTOFF = 0.33
_HALF_WIDTH = 3.0
_KAISER_BETA = 5.0


def grid_frames(duration_s: float) -> int:
    """The even number of mel frames (62.5 Hz) in `duration_s`: floor(samples / 256), less one if odd.

    Even because the VAE halves the rate once. Raises ClipError if the duration is not finite or negative.
    """
    if not math.isfinite(duration_s) or duration_s < 0:
        raise ClipError(f"duration is {duration_s} s, expected finite seconds >= 0; check the clip's length")
    frames = round(duration_s * SAMPLE_RATE) // HOP
    return frames - frames % 2


def fill_gaps(
    motion: NDArray[np.floating], conf: NDArray[np.floating], min_conf: float = 0.05
) -> NDArray[np.float64]:
    """Motion (T, 14, 2) in px with every missing joint filled: linear in time between neighbours, held at the ends.

    motion: (T, 14, 2) px; conf: (T, 14). A joint is missing in a frame where its confidence is under `min_conf` or not
    finite, or a coordinate is not finite (AIST++ keypoints2d hold NaNs; OpenPose writes 0, 0, 0).
    Raises ClipError if there is no frame, if the shapes disagree, or if a joint is missing in every frame.
    """
    points = np.asarray(motion, dtype=np.float64)
    trust = np.asarray(conf, dtype=np.float64)
    if points.ndim != 3 or points.shape[2] != 2 or trust.shape != points.shape[:2]:
        raise ClipError(
            f"motion has shape {points.shape} and confidence {trust.shape}, expected (T, J, 2) and (T, J); "
            "check how the keypoints were read"
        )
    if len(points) == 0:
        raise ClipError("motion has no frames, expected at least one; the clip is empty")
    present = np.isfinite(points).all(axis=2) & np.isfinite(trust) & (trust >= min_conf)
    frames = np.arange(len(points))
    filled = points.copy()
    for joint in range(points.shape[1]):
        seen = present[:, joint]
        if not seen.any():
            name = JOINT_NAMES[joint] if points.shape[1] == len(JOINT_NAMES) else f"number {joint}"
            raise ClipError(
                f"joint {name} is missing in all {len(points)} frames (confidence under {min_conf} or not finite), "
                "expected it in at least one; leave the clip out or track it again"
            )
        for axis in range(2):
            filled[~seen, joint, axis] = np.interp(frames[~seen], frames[seen], points[seen, joint, axis])
    return filled


def resample_to_grid(
    motion: NDArray[np.floating], fps: float, n_frames: int, grid_hz: float = MEL_RATE_HZ
) -> NDArray[np.float64]:
    """Motion (n_frames, J, C) on the mel grid, band-limited: frame i at (i + 0.5) / grid_hz seconds.

    motion: (T, J, C), frame i at i / fps seconds. Kaiser-windowed sinc with its cut-off at a third of the slower rate
    (20 Hz from 60 fps); the weights of a frame sum to 1, so a pose that rests stays. Ends are continued by
    odd reflection, so a limb that moves there keeps its velocity; grid times outside the motion hold its end frames.
    Differs from plain linear interpolation, which puts a 2.5 Hz pulse into Q from 60 fps with 1 px jitter.
    A jump is overshot by 4 %: clip values that have bounds, such as confidences, afterwards.
    Raises ClipError if fps or grid_hz is not positive, n_frames is under 1, or the motion is empty or not finite.
    """
    points = np.asarray(motion, dtype=np.float64)
    _check_resampling(points, fps, n_frames, grid_hz)
    times = (np.arange(n_frames) + 0.5) / grid_hz
    position = np.clip(times * fps, 0.0, len(points) - 1)  # in motion frames
    stretch = max(1.0, fps / grid_hz)  # the kernel widens when the grid is the slower of the two
    reach = math.ceil(_HALF_WIDTH * stretch)
    padded = np.pad(points, ((reach, reach), (0, 0), (0, 0)), mode="reflect", reflect_type="odd")
    nearest = np.floor(position).astype(int)
    taps = nearest[:, None] + np.arange(-reach + 1, reach + 1)
    weights = _kernel((taps - position[:, None]) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    taps = np.minimum(taps + reach, len(padded) - 1)  # only a tap of weight 0 can lie beyond the padding
    out: NDArray[np.float64] = np.einsum("nk,nkjc->njc", weights, padded[taps])
    return out


def _kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(1.0 - (x / _HALF_WIDTH) ** 2, 0.0, None)
    window = np.where(inside > 0, np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA), 0.0)
    out: NDArray[np.float64] = np.sinc(2 * _CUTOFF * x) * window
    return out


def _check_resampling(motion: NDArray[np.float64], fps: float, n_frames: int, grid_hz: float) -> None:
    if not (math.isfinite(fps) and fps > 0):
        raise ClipError(f"motion's rate is {fps} fps, expected a positive number; check the clip's fps")
    if not (math.isfinite(grid_hz) and grid_hz > 0):
        raise ClipError(
            f"grid rate is {grid_hz} Hz, expected a positive number; the mel grid has {MEL_RATE_HZ}"
        )
    if n_frames < 1:
        raise ClipError(f"{n_frames} grid frames were asked for, expected at least 1; the clip is too short")
    if motion.ndim != 3 or len(motion) == 0:
        raise ClipError(
            f"motion has shape {motion.shape}, expected (T, J, C), T >= 1; the clip is empty or misread"
        )
    if not np.isfinite(motion).all():
        raise ClipError(
            "motion holds values that are not finite, expected none; fill the gaps before resampling"
        )
