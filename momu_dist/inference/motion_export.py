"""Motion for animation programs: BVH (Blender, Unity's importers) and CSV (spreadsheets, engines, scripts).

Both are in the same plane: x to the right and y UP (a picture's y points down, so y = -y_px), z = 0 towards the
viewer, 1 unit = 1 px, the picture's upper left corner at the origin. In Blender import the BVH with scale 0.01.

BVH: the neck is the root, the limbs are those of `core.motion.skeleton`, the rest pose is a T-pose with the clip's
mean bone lengths. Every joint has three position and three rotation channels, since a bone seen in a picture
changes its length: the rotation about z turns the bone, and the position channels, which replace OFFSET (as Blender
and most readers take them), hold its length in that frame. So the positions are exact; a program that knows position
channels at the root only still shows the movement, with bones of constant length.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from momu_dist.core.grid import MEL_RATE_HZ
from momu_dist.core.motion.skeleton import JOINT_NAMES, LIMBS, N_JOINTS, NECK
from momu_dist.errors import DataError

Format = Literal["bvh", "csv"]

_CHANNELS = "Xposition Yposition Zposition Zrotation Xrotation Yrotation"
_PARENT = {child: parent for parent, child in LIMBS}
_CHILDREN = {joint: tuple(c for p, c in LIMBS if p == joint) for joint in range(N_JOINTS)}
# Unit vectors (x right, y up) of the T-pose of a person who faces the viewer: the right arm is at the picture's left.
_REST = {
    "RShoulder": (-1.0, 0.0),
    "RElbow": (-1.0, 0.0),
    "RWrist": (-1.0, 0.0),
    "LShoulder": (1.0, 0.0),
    "LElbow": (1.0, 0.0),
    "LWrist": (1.0, 0.0),
    "RHip": (-0.2, -0.98),
    "RKnee": (0.0, -1.0),
    "RAnkle": (0.0, -1.0),
    "LHip": (0.2, -0.98),
    "LKnee": (0.0, -1.0),
    "LAnkle": (0.0, -1.0),
    "Nose": (0.0, 1.0),
}
_HIPS = (JOINT_NAMES.index("RHip"), JOINT_NAMES.index("LHip"))
_END_SHARE = 0.3  # length of the stub behind a last joint, as a share of the bone before it


def write_motion(path: str | Path, motion_px: ArrayLike, rate_hz: float, kind: Format) -> None:
    """Write motion (T, 14, 2) px at `rate_hz` as `kind`; see `write_bvh` and `write_csv`."""
    (write_bvh if kind == "bvh" else write_csv)(path, motion_px, rate_hz)


def write_csv(path: str | Path, motion_px: ArrayLike, rate_hz: float) -> None:
    """Write one row a frame: time_s, then <joint>_x and <joint>_y (px, y up) of the 14 joints, to 0.0001 px.

    Time is that of the sound: frame i lies at (i + 0.5) / 62.5 s on our own grid, at i / rate_hz s at any other rate.
    Raises DataError as `write_bvh`.
    """
    points = _checked(motion_px, rate_hz)
    first = 0.5 if rate_hz == MEL_RATE_HZ else 0.0
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["time_s", *(f"{name}_{axis}" for name in JOINT_NAMES for axis in "xy")])
    for i, frame in enumerate(points):
        table.writerow([f"{(i + first) / rate_hz:.6f}", *(_number(value, 4) for value in frame.ravel())])
    Path(path).write_text(text.getvalue())


def write_bvh(path: str | Path, motion_px: ArrayLike, rate_hz: float) -> None:
    """Write motion (T, 14, 2) px as BVH: hierarchy and T frames of 14 x 6 channels (the module says how), exact to
    about 0.0001 px.

    Raises DataError where there is no frame, a coordinate is not finite (fill gaps first) or the rate is not positive.
    """
    points = _checked(motion_px, rate_hz)
    rest = _rest_offsets(points)
    lines = ["HIERARCHY", *_joint_lines(NECK, rest, 0)]
    lines += ["MOTION", f"Frames: {len(points)}", f"Frame Time: {1.0 / rate_hz:.9f}"]
    lines += [" ".join(_number(value) for value in row) for row in _channels(points, rest)]
    Path(path).write_text("\n".join(lines) + "\n")


def _checked(motion_px: ArrayLike, rate_hz: float) -> NDArray[np.float64]:
    """The joints (T, 14, 2) with y up."""
    motion = np.asarray(motion_px, dtype=np.float64)
    if motion.ndim != 3 or motion.shape[1:] != (N_JOINTS, 2) or not len(motion):
        raise DataError(
            f"motion of shape {motion.shape} cannot be exported, expected (T, {N_JOINTS}, 2), T >= 1."
        )
    if not np.isfinite(motion).all():
        raise DataError(
            "motion with gaps cannot be exported, expected every joint in every frame; fill_gaps first."
        )
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise DataError(f"motion at {rate_hz} Hz cannot be exported, expected a positive rate; give its fps.")
    return motion * (1.0, -1.0)


def _rest_offsets(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offset (14, 2) of each joint from its parent in the rest pose; zero for the root."""
    offsets = np.zeros((N_JOINTS, 2))
    for parent, child in LIMBS:
        direction = np.asarray(_REST[JOINT_NAMES[child]])
        length = np.linalg.norm(points[:, child] - points[:, parent], axis=-1).mean()
        offsets[child] = direction / np.linalg.norm(direction) * length
    return offsets


def _channels(points: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows (T, 84) of MOTION: six channels a joint, in the order of the hierarchy."""
    turned = {joint: _turn(joint, points, rest) for joint in range(N_JOINTS) if _CHILDREN[joint]}
    parts = []
    for joint in _order(NECK):
        parent = _PARENT.get(joint)
        above = np.zeros(len(points)) if parent is None else turned[parent]
        angle = turned.setdefault(joint, above)  # a last joint turns nothing of its own
        base = 0.0 if parent is None else points[:, parent]
        position = _rotate(points[:, joint] - base, -above)
        # Continuous over time, so that nobody's interpolation turns a limb once around.
        degrees = np.degrees(np.unwrap(angle - above))
        zeros = np.zeros(len(points))
        parts.append(np.stack([position[:, 0], position[:, 1], zeros, degrees, zeros, zeros], axis=1))
    return np.concatenate(parts, axis=1)


def _turn(joint: int, points: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle (T,) in rad, counter-clockwise, from the rest pose to each frame of what hangs on `joint`.

    The neck turns with the trunk, from it to the middle of the hips; any other joint with the one bone it carries.
    """
    ends = _HIPS if joint == NECK else _CHILDREN[joint]
    now = points[:, ends].mean(axis=1) - points[:, joint]
    then = rest[list(ends)].mean(axis=0)
    angle: NDArray[np.float64] = np.arctan2(now[:, 1], now[:, 0]) - np.arctan2(then[1], then[0])
    return angle


def _rotate(vectors: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors (T, 2) turned counter-clockwise by `angle` (T,) rad."""
    x, y = vectors.T
    return np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)


def _order(joint: int) -> Iterator[int]:
    yield joint
    for child in _CHILDREN[joint]:
        yield from _order(child)


def _joint_lines(joint: int, rest: NDArray[np.float64], depth: int) -> Iterator[str]:
    tab = "\t" * depth
    yield f"{tab}{'JOINT' if depth else 'ROOT'} {JOINT_NAMES[joint]}"
    yield f"{tab}{{"
    yield f"{tab}\tOFFSET {_offset(rest[joint])}"
    yield f"{tab}\tCHANNELS 6 {_CHANNELS}"
    for child in _CHILDREN[joint]:
        yield from _joint_lines(child, rest, depth + 1)
    if not _CHILDREN[joint]:
        yield from (
            f"{tab}\tEnd Site",
            f"{tab}\t{{",
            f"{tab}\t\tOFFSET {_offset(rest[joint] * _END_SHARE)}",
            f"{tab}\t}}",
        )
    yield f"{tab}}}"


def _offset(vector: NDArray[np.float64]) -> str:
    return f"{_number(vector[0])} {_number(vector[1])} 0"


def _number(value: float, decimals: int = 6) -> str:
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
