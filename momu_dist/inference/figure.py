"""A dancer drawn in pixels: the view that fits a clip, and one anti-aliased picture a pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from momu_dist.core.motion.skeleton import JOINT_NAMES, LIMBS, NECK

# Orange and sky blue of Okabe and Ito's palette are told apart with any kind of colour vision.
SIDE_COLOURS = {"R": "#e69f00", "L": "#56b4e9", "": "#d9dde3"}
_FLOOR, _WALL, _SHADOW = "#2b3038", "#1c2026", "#14171b"
_SUPERSAMPLING = 2

_HIPS = [JOINT_NAMES.index("RHip"), JOINT_NAMES.index("LHip")]
_ANKLES = [JOINT_NAMES.index("RAnkle"), JOINT_NAMES.index("LAnkle")]
_NOSE = JOINT_NAMES.index("Nose")
_TRUNK = [JOINT_NAMES.index(name) for name in ("RShoulder", "LShoulder", "LHip", "RHip")]


def side_of(limb: tuple[int, int]) -> str:
    """ "R", "L" or "" (trunk and head) for a limb (parent, child)."""
    parent, child = limb
    if parent == NECK and child not in (2, 5):
        return ""
    return JOINT_NAMES[child][0]


@dataclass(frozen=True)
class View:
    """Where camera pixels go on a square picture: out = (in - origin_px) * scale, one scale for x and y."""

    origin_px: NDArray[np.float64]
    scale: float
    floor_px: float
    trunk_px: float
    head_px: float

    @classmethod
    def of(cls, motion_px: NDArray[np.floating], size_px: int) -> View:
        """The view of size_px x size_px that holds the motion (T, 14, 2) but for its rarest excursions.

        The box is that of the 0.5 and 99.5 percentiles, so one stray joint does not shrink the dancer;
        missing joints (NaN) are left out. A clip without any joint gives a unit view.
        """
        points = motion_px[np.isfinite(motion_px).all(axis=2)]
        if len(points) == 0:
            points = np.array([[0.0, 0.0], [1.0, 1.0]])
        low, high = np.percentile(points, 0.5, axis=0), np.percentile(points, 99.5, axis=0)
        neck = motion_px[:, NECK]
        trunk = _median_length(neck - motion_px[:, _HIPS].mean(axis=1))
        head = 0.5 * _median_length(neck - motion_px[:, _NOSE])
        low[1] -= head  # the head is drawn around the nose
        span = max(float((high - low).max()), 1e-6)
        scale = 0.78 * size_px / span
        centre = (low + high) / 2
        origin = np.array([centre[0] - size_px / 2 / scale, centre[1] - 0.49 * size_px / scale])
        floor = (high[1] - origin[1]) * scale
        return cls(origin, scale, floor, trunk * scale, head * scale)

    def project(self, pose_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """A pose (14, 2) in px of the camera as (14, 2) in px of the picture."""
        return (pose_px - self.origin_px) * self.scale


class Painter:
    """Pictures (size_px, size_px, 3) uint8 of one clip's poses, drawn twice as large and averaged down."""

    def __init__(self, motion_px: NDArray[np.floating], size_px: int) -> None:
        self._size = size_px * _SUPERSAMPLING
        self._view = View.of(np.asarray(motion_px, dtype=np.float64), self._size)
        self._width = max(4, round(0.13 * self._view.trunk_px))
        self._stage = self._empty_stage()

    def paint(self, pose_px: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The picture of one pose (14, 2); limbs with a missing joint (NaN) are left out."""
        image = self._stage.copy()
        draw = ImageDraw.Draw(image)
        pose = self._view.project(np.asarray(pose_px, dtype=np.float64))
        seen: NDArray[np.bool_] = np.asarray(np.isfinite(pose).all(axis=1))
        self._shadow(draw, pose, seen)
        if seen[_TRUNK].all():
            draw.polygon([tuple(pose[joint]) for joint in _TRUNK], fill="#4a515c")
        for limb in LIMBS:
            if seen[list(limb)].all():
                self._limb(draw, pose[limb[0]], pose[limb[1]], SIDE_COLOURS[side_of(limb)])
        if seen[_NOSE]:
            _disc(draw, pose[_NOSE], max(self._view.head_px, self._width), SIDE_COLOURS[""])
        return np.asarray(image.reduce(_SUPERSAMPLING))

    def _empty_stage(self) -> Image.Image:
        stage = Image.new("RGB", (self._size, self._size), _WALL)
        horizon = self._view.floor_px - 0.04 * self._size
        ImageDraw.Draw(stage).rectangle((0, horizon, self._size, self._size), fill=_FLOOR)
        return stage

    def _shadow(self, draw: ImageDraw.ImageDraw, pose: NDArray[np.float64], seen: NDArray[np.bool_]) -> None:
        feet = pose[_ANKLES][seen[_ANKLES]]
        if len(feet) == 0:
            return
        left, right = (
            feet[:, 0].min() - 0.5 * self._view.trunk_px,
            feet[:, 0].max() + 0.5 * self._view.trunk_px,
        )
        y, half = self._view.floor_px + 0.5 * self._width, 0.12 * self._view.trunk_px
        draw.ellipse((left, y - half, right, y + half), fill=_SHADOW)

    def _limb(
        self, draw: ImageDraw.ImageDraw, start: NDArray[np.float64], end: NDArray[np.float64], colour: str
    ) -> None:
        draw.line((*start, *end), fill=colour, width=self._width)
        for joint in (start, end):
            _disc(draw, joint, self._width / 2, colour)


def _disc(draw: ImageDraw.ImageDraw, centre: NDArray[np.float64], radius: float, colour: str) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _median_length(vectors: NDArray[np.floating]) -> float:
    lengths = np.linalg.norm(vectors, axis=-1)
    lengths = lengths[np.isfinite(lengths)]
    return float(np.median(lengths)) if len(lengths) else 0.0
