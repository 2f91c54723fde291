"""Joints, limbs and maps."""

from __future__ import annotations

import numpy as np
import pytest

from momu_dist.core.motion.skeleton import (
    BODY25_TO_14,
    JOINT_NAMES,
    LIMBS,
    N_JOINTS,
    NECK,
    body25_to_14,
    coco17_to_14,
)
from momu_dist.errors import ClipError


def test_limbs_are_a_tree_walked_outward_from_the_neck() -> None:
    reached = {NECK}
    for parent, child in LIMBS:
        assert parent in reached
        assert child not in reached
        reached.add(child)
    assert reached == set(range(N_JOINTS))


def test_right_limbs_mirror_left_limbs() -> None:
    mirrored = {
        name: name.translate(str.maketrans("RL", "LR")) if name[0] in "RL" else name for name in JOINT_NAMES
    }
    named = {(JOINT_NAMES[parent], JOINT_NAMES[child]) for parent, child in LIMBS}
    assert {(mirrored[parent], mirrored[child]) for parent, child in named} == named


def test_maps_work_for_any_leading_axes_and_do_not_touch_their_input() -> None:
    coco = np.random.default_rng(0).uniform(size=(2, 5, 17, 3))
    before = coco.copy()
    assert coco17_to_14(coco).shape == (2, 5, 14, 3)
    np.testing.assert_array_equal(coco, before)
    np.testing.assert_array_equal(coco17_to_14(coco)[1, 3], coco17_to_14(coco[1, 3]))
    assert body25_to_14(np.zeros((0, 25, 3))).shape == (0, N_JOINTS, 3)
    assert len(BODY25_TO_14) == N_JOINTS


def test_neck_of_an_unseen_shoulder_counts_as_missing() -> None:
    coco = np.ones((1, 17, 3))
    coco[0, 5] = (100.0, 40.0, 0.9)
    coco[0, 6] = (0.0, 0.0, 0.0)
    np.testing.assert_allclose(coco17_to_14(coco)[0, NECK], [50.0, 20.0, 0.0])


@pytest.mark.parametrize("shape", [(4, 17, 3), (4, 25, 2), (25,)])
def test_wrong_layout_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClipError, match="Body-25"):
        body25_to_14(np.zeros(shape))
