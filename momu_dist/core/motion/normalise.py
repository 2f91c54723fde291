"""Normalisation of motion by statistics of the training set, and sums from which shards' statistics are added up.

One scale for x and y, because the angles of the joints' differences enter Eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from momu_dist.core.motion.bones import limb_lengths
from momu_dist.core.motion.skeleton import LIMBS, N_JOINTS, NECK
from momu_dist.errors import ClipError, DataError

Motion = TypeVar("Motion", NDArray[Any], Tensor)


@dataclass(frozen=True)
class MotionStats:
    """Centre (x, y) px, isotropic scale px and the 13 mean limb lengths px (order of LIMBS) of a training set.

    pose_scale: None, or the scale px of the joints' places seen from the neck. With it, the neck alone carries where
    the dancer is, in units of `scale`, and the other joints say how the body stands, in units of `pose_scale`: for
    dancers who travel much further than their limbs reach.
    """

    centre: tuple[float, float]
    scale: float
    bone_lengths_px: tuple[float, ...]
    pose_scale: float | None = None

    def __post_init__(self) -> None:
        numbers = [*self.centre, self.scale, *self.bone_lengths_px]
        if len(self.centre) != 2 or len(self.bone_lengths_px) != len(LIMBS) or not np.isfinite(numbers).all():
            raise DataError(
                f"motion statistics hold a centre of {len(self.centre)} and {len(self.bone_lengths_px)} bone lengths, "
                f"expected 2 and {len(LIMBS)} finite numbers; prepare the data again"
            )
        if self.scale <= 0:
            raise DataError(
                f"motion scale is {self.scale} px, expected a positive number; every joint of the training set lies on "
                "one point, check the keypoints"
            )
        if self.pose_scale is not None and not 0 < self.pose_scale < math.inf:
            raise DataError(f"motion pose_scale is {self.pose_scale} px, expected a positive number, or null")

    def normalise(self, motion_px: Motion) -> Motion:
        """(motion_px - centre) / scale, same shape (..., 14, 2), array kind and dtype; empty in, empty out.

        With `pose_scale` so for the neck alone, and (motion_px - neck) / pose_scale for the others.
        """
        if self.pose_scale is None:
            return self._to_frame(motion_px)
        out = (motion_px - motion_px[..., NECK : NECK + 1, :]) / self.pose_scale
        out[..., NECK, :] = self._to_frame(motion_px[..., NECK, :])
        return out

    def denormalise(self, motion: Motion) -> Motion:
        """Pixels of normalised motion, the inverse of `normalise`; a2m uses it on generated motion."""
        if self.pose_scale is None:
            return self._from_frame(motion)
        neck = self._from_frame(motion[..., NECK : NECK + 1, :])
        out = motion * self.pose_scale + neck
        out[..., NECK, :] = neck[..., 0, :]
        return out

    def _to_frame(self, motion_px: Motion) -> Motion:
        x, y = self.centre
        out = motion_px / self.scale
        out[..., 0] -= x / self.scale
        out[..., 1] -= y / self.scale
        return out

    def _from_frame(self, motion: Motion) -> Motion:
        x, y = self.centre
        out = motion * self.scale
        out[..., 0] += x
        out[..., 1] += y
        return out

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON types."""
        return {
            "centre": list(self.centre),
            "scale": self.scale,
            "bone_lengths_px": list(self.bone_lengths_px),
            "pose_scale": self.pose_scale,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MotionStats:
        """The statistics that `to_dict` wrote; DataError names a missing key (`pose_scale` may be)."""
        try:
            x, y = values["centre"]
            return cls(
                centre=(float(x), float(y)),
                scale=float(values["scale"]),
                bone_lengths_px=tuple(float(length) for length in values["bone_lengths_px"]),
                pose_scale=None if (scale := values.get("pose_scale")) is None else float(scale),
            )
        except KeyError as error:
            raise DataError(
                f"motion statistics lack {error}, expected centre, scale, bone_lengths_px"
            ) from error


@dataclass(frozen=True)
class MotionSums:
    """Float64 sums over joints and frames (px, px^2); the sums of two shards add up to those of both together."""

    n: int = 0
    sum_x: float = 0.0
    sum_y: float = 0.0
    sum_squares: float = 0.0
    pose_squares: float = 0.0
    limb_sums: tuple[float, ...] = (0.0,) * len(LIMBS)

    @classmethod
    def of(cls, motion: ArrayLike) -> MotionSums:
        """The sums of one motion (T, 14, 2) in px; zero frames give zero sums. Raises ClipError if not finite."""
        points = np.asarray(motion, dtype=np.float64)
        if points.ndim != 3 or points.shape[1:] != (N_JOINTS, 2) or not np.isfinite(points).all():
            raise ClipError(
                f"motion of shape {points.shape} cannot be counted, expected (T, {N_JOINTS}, 2) of finite pixels; "
                "fill its gaps first"
            )
        return cls(
            n=points.shape[0] * N_JOINTS,
            sum_x=float(points[..., 0].sum()),
            sum_y=float(points[..., 1].sum()),
            sum_squares=float((points**2).sum()),
            pose_squares=float(((points - points[:, NECK : NECK + 1]) ** 2).sum()),
            limb_sums=tuple(float(total) for total in limb_lengths(points).sum(axis=0)),
        )

    def __add__(self, other: MotionSums) -> MotionSums:
        return MotionSums(
            n=self.n + other.n,
            sum_x=self.sum_x + other.sum_x,
            sum_y=self.sum_y + other.sum_y,
            sum_squares=self.sum_squares + other.sum_squares,
            pose_squares=self.pose_squares + other.pose_squares,
            limb_sums=tuple(a + b for a, b in zip(self.limb_sums, other.limb_sums, strict=True)),
        )

    def stats(self, travel_apart: bool = False) -> MotionStats:
        """The statistics: mean position, standard deviation over both axes together, mean limb lengths.

        travel_apart: also the `pose_scale`, the root mean square over both axes of the other joints' places seen from
        the neck. Raises DataError if nothing was counted or all joints lie on one point.
        """
        if self.n == 0:
            raise DataError("no motion was counted, expected at least one clip; the training split is empty")
        x, y = self.sum_x / self.n, self.sum_y / self.n
        variance = (self.sum_squares / self.n - x * x - y * y) / 2
        n_poses = self.n // N_JOINTS
        return MotionStats(
            (x, y),
            math.sqrt(max(variance, 0.0)),
            tuple(total / n_poses for total in self.limb_sums),
            math.sqrt(self.pose_squares / (2 * n_poses * (N_JOINTS - 1))) if travel_apart else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The sums as JSON types (Python writes floats so that they read back exactly)."""
        return {
            "n": self.n,
            "sum_x": self.sum_x,
            "sum_y": self.sum_y,
            "sum_squares": self.sum_squares,
            "pose_squares": self.pose_squares,
            "limb_sums": list(self.limb_sums),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MotionSums:
        """The sums that `to_dict` wrote; DataError names a missing key."""
        try:
            return cls(
                n=int(values["n"]),
                sum_x=float(values["sum_x"]),
                sum_y=float(values["sum_y"]),
                sum_squares=float(values["sum_squares"]),
                pose_squares=float(values["pose_squares"]),
                limb_sums=tuple(float(total) for total in values["limb_sums"]),
            )
        except KeyError as error:
            raise DataError(
                f"motion sums lack {error}, expected n, sum_x, sum_y, sum_squares, pose_squares, limb_sums"
            ) from error
