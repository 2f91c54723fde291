"""Limb lengths, and the correction of limbs that grew too long in generated motion (the paper's Appendix E)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from momu_dist.core.motion.skeleton import LIMBS, N_JOINTS
from momu_dist.errors import DataError

_PARENTS = [parent for parent, _ in LIMBS]
_CHILDREN = [child for _, child in LIMBS]


def limb_lengths(motion: ArrayLike) -> NDArray[np.float64]:
    """The 13 limb lengths (..., 13) in the unit of `motion` (..., 14, 2), in the order of LIMBS."""
    joints = np.asarray(motion, dtype=np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(
        joints[..., _CHILDREN, :] - joints[..., _PARENTS, :], axis=-1
    )
    return lengths


def correct_bones(motion: ArrayLike, mean_lengths: ArrayLike, factor: float = 1.3) -> NDArray[np.float64]:
    """Motion (T, 14, 2) in px where a limb longer than `factor` x its mean has the mean length and its old direction.

    mean_lengths: (13,) px of the training set, in the order of LIMBS. Walks outward from the neck, which stays; what
    hangs on a shortened limb moves with it, so the other limbs keep length and direction (the paper names neither an
    order nor what happens to the joints further out: both are our reading). The limbs are judged one by one from the
    motion as given. Zero frames in, zero frames out. Raises DataError for another shape or a factor under 1.
    Source: Appendix E (threshold 1.3 x the mean bone length, corrected to the mean).
    """
    joints = np.asarray(motion, dtype=np.float64)
    means = np.asarray(mean_lengths, dtype=np.float64)
    if joints.ndim < 2 or joints.shape[-2:] != (N_JOINTS, 2) or means.shape != (len(LIMBS),) or factor < 1:
        raise DataError(
            f"bones of motion {joints.shape} with {means.shape} mean lengths and factor {factor} cannot be corrected, "
            f"expected (T, {N_JOINTS}, 2), ({len(LIMBS)},) and a factor of at least 1"
        )
    lengths = limb_lengths(joints)
    too_long = lengths > factor * means
    shrink = np.where(too_long, means / np.where(too_long, lengths, 1.0), 1.0)
    corrected = joints.copy()
    for limb, (parent, child) in enumerate(LIMBS):
        vector = joints[..., child, :] - joints[..., parent, :]
        corrected[..., child, :] = corrected[..., parent, :] + shrink[..., limb, None] * vector
    return corrected
