"""The 14 joints of the paper and the maps from Body-25 and COCO-17 to them.

The order of the joints is Dancing2Music's (NVlabs/Dancing2Music `utils.vis`: the first 14 of OpenPose's COCO-18).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from momu_dist.errors import ClipError

JOINT_NAMES: tuple[str, ...] = (
    "Nose",
    "Neck",
    "RShoulder",
    "RElbow",
    "RWrist",
    "LShoulder",
    "LElbow",
    "LWrist",
    "RHip",
    "RKnee",
    "RAnkle",
    "LHip",
    "LKnee",
    "LAnkle",
)
N_JOINTS = len(JOINT_NAMES)
NECK = JOINT_NAMES.index("Neck")

# (parent, child), every parent before its children, so one pass over the tuple walks outward from the neck.
LIMBS: tuple[tuple[int, int], ...] = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
)

BODY25_TO_14: list[int] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14]

# COCO-17 has no neck: its place in this list holds a shoulder and is overwritten by the mean of both.
_COCO17_TO_14: list[int] = [0, 5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15]
_COCO17_SHOULDERS: list[int] = [5, 6]


def body25_to_14(keypoints: ArrayLike) -> NDArray[np.float64]:
    """The 14 joints (..., 14, 3) of OpenPose Body-25 keypoints (..., 25, 3); last axis (x px, y px, confidence).

    Undetected joints stay as OpenPose writes them (0, 0, 0). Zero frames in, zero frames out.
    Raises ClipError for another shape. Source: OpenPose `doc/02_output.md`; index list derived from the joint order.
    """
    return _checked(keypoints, 25, "Body-25")[..., BODY25_TO_14, :]


def coco17_to_14(keypoints: ArrayLike) -> NDArray[np.float64]:
    """The 14 joints (..., 14, 3) of COCO-17 keypoints (..., 17, 3); last axis (x px, y px, confidence).

    The neck is the midpoint of the shoulders with the smaller of their confidences (not their mean), so that a neck
    between a seen shoulder and an undetected one at (0, 0) counts as missing. Zero frames in, zero frames out.
    Raises ClipError for another shape.
    """
    coco = _checked(keypoints, 17, "COCO-17")
    joints = coco[..., _COCO17_TO_14, :]
    shoulders = coco[..., _COCO17_SHOULDERS, :]
    joints[..., NECK, :2] = shoulders[..., :2].mean(axis=-2)
    joints[..., NECK, 2] = shoulders[..., 2].min(axis=-1)
    return joints


def _checked(keypoints: ArrayLike, n_joints: int, layout: str) -> NDArray[np.float64]:
    array = np.asarray(keypoints, dtype=np.float64)
    if array.ndim < 2 or array.shape[-2:] != (n_joints, 3):
        raise ClipError(
            f"keypoints have shape {array.shape}, expected (..., {n_joints}, 3) with (x, y, confidence) for {layout}; "
            "check which skeleton the file holds"
        )
    return array
