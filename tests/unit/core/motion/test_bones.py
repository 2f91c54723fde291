"""Limb lengths and their correction."""

from __future__ import annotations

import numpy as np
import pytest

from momu_dist.core.motion.bones import correct_bones, limb_lengths
from momu_dist.core.motion.skeleton import JOINT_NAMES, LIMBS, NECK
from momu_dist.errors import DataError

MEANS = np.linspace(20.0, 60.0, len(LIMBS))


def pose_with(lengths: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pose = np.zeros((1, 14, 2))
    pose[:, NECK] = (300.0, 200.0)
    for (parent, child), length in zip(LIMBS, lengths, strict=True):
        angle = rng.uniform(0, 2 * np.pi)
        pose[:, child] = pose[:, parent] + length * np.array([np.cos(angle), np.sin(angle)])
    return pose


def test_lengths() -> None:
    np.testing.assert_allclose(limb_lengths(pose_with(MEANS))[0], MEANS)
    assert limb_lengths(np.zeros((2, 5, 14, 2))).shape == (2, 5, 13)


def test_limbs_within_the_threshold_stay() -> None:
    pose = pose_with(1.29 * MEANS)
    np.testing.assert_allclose(correct_bones(pose, MEANS), pose, atol=1e-9)
    np.testing.assert_allclose(
        correct_bones(pose_with(0.1 * MEANS), MEANS), pose_with(0.1 * MEANS), atol=1e-9
    )


def test_a_long_upper_arm_gets_the_mean_and_the_forearm_moves_with_it() -> None:
    upper_arm = LIMBS.index((2, 3))
    lengths = MEANS.copy()
    lengths[upper_arm] *= 2
    pose = pose_with(lengths)
    fixed = correct_bones(pose, MEANS)
    np.testing.assert_allclose(limb_lengths(fixed)[0], MEANS)
    shift = fixed[0] - pose[0]
    elbow, wrist = JOINT_NAMES.index("RElbow"), JOINT_NAMES.index("RWrist")
    np.testing.assert_allclose(shift[elbow], shift[wrist])
    np.testing.assert_allclose(np.linalg.norm(shift[elbow]), MEANS[upper_arm])
    others = [joint for joint in range(14) if joint not in (elbow, wrist)]
    np.testing.assert_allclose(shift[others], 0, atol=1e-9)


def test_no_limb_is_over_the_threshold_afterwards_and_the_neck_stays() -> None:
    motion = np.random.default_rng(1).normal(300, 80, size=(50, 14, 2))
    fixed = correct_bones(motion, MEANS)
    assert (limb_lengths(fixed) <= 1.3 * MEANS + 1e-9).all()
    np.testing.assert_array_equal(fixed[:, NECK], motion[:, NECK])
    np.testing.assert_allclose(correct_bones(fixed, MEANS), fixed, atol=1e-9)


def test_empty_and_wrong_shapes() -> None:
    assert correct_bones(np.zeros((0, 14, 2)), MEANS).shape == (0, 14, 2)
    with pytest.raises(DataError, match="mean lengths"):
        correct_bones(np.zeros((3, 14, 2)), MEANS[:5])
