"""One picture of a sample: poses over time, kinematic beats and onsets, and the mel, on one time axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from momu_dist.core.audio.mel import MEL_FLOOR, MEL_RATE_HZ
from momu_dist.core.motion.skeleton import LIMBS
from momu_dist.errors import DataError
from momu_dist.inference.figure import side_of

# Vermilion, blue and dark grey of Okabe and Ito's palette: told apart with any kind of colour vision, on
# white.
_SIDES = {"R": "#d55e00", "L": "#0072b2", "": "#4d4d4d"}
_BEATS, _ONSETS = "#009e73", "#cc5fa0"
_WIDTH_IN, _HEIGHT_IN, _DPI = 12.0, 5.6, 100
_MAX_POSES = 24
_POSE_GAP_IN = 0.12  # for the thickness of limbs and heads
_INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


def draw_sheet(
    path: str | Path,
    motion_px: ArrayLike,
    rate_hz: float,
    mel: ArrayLike,
    onsets_s: ArrayLike,
    beats_s: ArrayLike,
    title: str,
) -> None:
    """Writes a png, 1200 x 560 px.

    motion_px: (T, 14, 2), frame i at (i + 0.5) / rate_hz seconds; drawn every 0.5 s, less often in long clips, all in one
    scale, as large as leaves them apart and inside. mel: (80, T_a) log10 at 62.5 Hz. onsets_s (N,), beats_s (M,):
    seconds, may be empty. Raises DataError if motion is not (T, 14, 2) with T >= 1, or mel not (M, T_a).
    """
    motion, picture = np.asarray(motion_px, dtype=np.float64), np.asarray(mel, dtype=np.float64)
    if motion.ndim != 3 or motion.shape[1:] != (14, 2) or len(motion) == 0 or picture.ndim != 2:
        raise DataError(
            f"A sheet cannot be drawn of motion {motion.shape} and mel {picture.shape}: "
            "expected (T, 14, 2) with T >= 1 and (80, T)."
        )
    duration_s = max(len(motion) / rate_hz, picture.shape[1] / MEL_RATE_HZ)
    # No pyplot: a figure of its own is safe in the threads of a server.
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI)
    FigureCanvasAgg(figure)
    poses, ticks, sound = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [1.3, 0.6, 2.0], "hspace": 0.07}
    )
    figure.subplots_adjust(left=0.085, right=0.985, top=0.92, bottom=0.095)
    sound.set_xlim(0, duration_s)
    figure.suptitle(title, x=0.085, y=0.98, ha="left", fontsize=13, fontweight="bold")
    _draw_poses(poses, motion, rate_hz, duration_s)
    _draw_ticks(ticks, np.asarray(beats_s, dtype=np.float64), np.asarray(onsets_s, dtype=np.float64))
    _draw_mel(sound, picture)
    figure.savefig(path)


def _draw_poses(axes: Axes, motion: NDArray[np.float64], rate_hz: float, duration_s: float) -> None:
    """Stick figures in true proportion, each standing at its own time, as large as leaves them apart."""
    interval_s = next((s for s in _INTERVALS_S if duration_s / s <= _MAX_POSES), duration_s / _MAX_POSES)
    # The last has room to its right; a clip shorter than that has one pose, in the middle.
    times_s = np.arange(interval_s / 2, duration_s - 0.4 * interval_s, interval_s)
    times_s = times_s if len(times_s) else np.array([duration_s / 2])
    frames = np.clip(np.round(times_s * rate_hz - 0.5).astype(int), 0, len(motion) - 1)
    drawn = motion[frames]
    drawn = drawn[np.isfinite(drawn).all(axis=2).any(axis=1)]
    _label_poses(axes)
    if len(drawn) == 0:
        return
    times_s = times_s[np.isfinite(motion[frames]).all(axis=2).any(axis=1)]
    aside_px = drawn[..., 0] - np.nanmean(drawn[..., 0], axis=1, keepdims=True)
    top_px, bottom_px = float(np.nanmin(drawn[..., 1])), float(np.nanmax(drawn[..., 1]))
    box = axes.get_position()
    width_in, height_in = box.width * _WIDTH_IN, box.height * _HEIGHT_IN
    interval_in = interval_s / duration_s * width_in
    px_per_in = max(
        1.15 * (bottom_px - top_px) / height_in,
        _widest_px(aside_px, times_s, interval_s, duration_s) / (interval_in - _POSE_GAP_IN),
        1e-6,
    )
    centre_px, half_px = (top_px + bottom_px) / 2, px_per_in * height_in / 2
    axes.set_ylim(centre_px + half_px, centre_px - half_px)
    x, y = times_s[:, None] + aside_px / px_per_in / width_in * duration_s, drawn[..., 1]
    for limb in LIMBS:
        a, b = limb
        lines = np.stack([np.stack([x[:, a], y[:, a]], 1), np.stack([x[:, b], y[:, b]], 1)], axis=1)
        axes.add_collection(
            LineCollection(list(lines), colors=_SIDES[side_of(limb)], linewidths=2.4, capstyle="round")
        )
    axes.scatter(x[:, 0], y[:, 0], s=42, color=_SIDES[""], zorder=3)


def _widest_px(
    aside_px: NDArray[np.float64], times_s: NDArray[np.float64], interval_s: float, duration_s: float
) -> float:
    """Width of an interval that parts all neighbours and keeps the first and the last inside the axes, px.

    aside_px (N, 14): distance of each joint from its pose's middle, NaN where missing.
    """
    left, right = -np.nanmin(aside_px, axis=1), np.nanmax(aside_px, axis=1)
    between = (right[:-1] + left[1:]) * interval_s / np.diff(times_s)
    first, last = left[0] * interval_s / times_s[0], right[-1] * interval_s / (duration_s - times_s[-1])
    return float(max(first, last, between.max(initial=0.0)))


def _label_poses(axes: Axes) -> None:
    axes.set_yticks([])
    axes.set_ylabel("pose", fontsize=11)
    axes.tick_params(axis="x", length=0)
    for name, side, place in (("right", "R", 0.995), ("left", "L", 0.955)):
        axes.text(
            place,
            1.03,
            name,
            color=_SIDES[side],
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            fontsize=10,
        )
    _quiet(axes)


def _draw_ticks(axes: Axes, beats_s: NDArray[np.float64], onsets_s: NDArray[np.float64]) -> None:
    for row, times_s, colour in ((1, beats_s, _BEATS), (0, onsets_s, _ONSETS)):
        axes.vlines(times_s, row - 0.38, row + 0.38, colors=colour, linewidths=2.2)
    axes.set_ylim(-0.55, 1.55)
    axes.set_yticks([1, 0], ["kinematic\nbeats", "onsets"], fontsize=10)
    for label, colour in zip(axes.get_yticklabels(), (_BEATS, _ONSETS), strict=True):
        label.set_color(colour)
    axes.tick_params(axis="both", length=0)
    _quiet(axes)


def _draw_mel(axes: Axes, mel: NDArray[np.float64]) -> None:
    end_s = mel.shape[1] / MEL_RATE_HZ
    axes.imshow(
        mel,
        origin="lower",
        aspect="auto",
        extent=(0, end_s, 0, mel.shape[0]),
        cmap="magma",
        vmin=MEL_FLOOR,
        vmax=1.5,
        interpolation="nearest",
    )
    axes.set_ylabel("mel band", fontsize=11)
    axes.set_xlabel("time (s)", fontsize=11)
    axes.tick_params(labelsize=10)


def _quiet(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_color("#cccccc")
