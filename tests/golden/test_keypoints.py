"""Golden 12: the maps from Body-25 and COCO-17 to the 14 joints."""

from __future__ import annotations

from typing import Any

import numpy as np

from momu_dist.core.motion.skeleton import (
    BODY25_TO_14,
    JOINT_NAMES,
    LIMBS,
    N_JOINTS,
    NECK,
    body25_to_14,
    coco17_to_14,
)


def test_body25_map(golden: Any) -> None:
    arrays = golden.npz("12_keypoints.npz")
    np.testing.assert_allclose(body25_to_14(arrays["body25"]), arrays["from_body25"], atol=1e-12)


def test_coco17_map_but_for_the_necks_confidence(golden: Any) -> None:
    arrays = golden.npz("12_keypoints.npz")
    ours, theirs = coco17_to_14(arrays["coco17"]), arrays["from_coco17"]
    np.testing.assert_allclose(ours[..., :2], theirs[..., :2], atol=1e-12)
    others = [joint for joint in range(N_JOINTS) if joint != NECK]
    np.testing.assert_allclose(ours[:, others, 2], theirs[:, others, 2], atol=1e-12)
    # The golden file averages the shoulders' confidences. We take the smaller one on purpose: a neck between a seen
    # shoulder and one at (0, 0) with confidence 0 must count as missing.
    shoulders = arrays["coco17"][:, [5, 6], 2]
    np.testing.assert_allclose(theirs[:, NECK, 2], shoulders.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(ours[:, NECK, 2], shoulders.min(axis=1), atol=1e-12)


def test_names_indices_and_limbs(golden: Any) -> None:
    table = golden.json("12_keypoints.json")
    assert list(JOINT_NAMES) == table["names14"]
    assert len(table["names14"]) == N_JOINTS
    assert table["sel14_body25_idx"] == BODY25_TO_14
    assert [list(limb) for limb in LIMBS] == table["limbs13_D2M_order"]


def test_coco_map_takes_the_tabled_joints(golden: Any) -> None:
    sources = golden.json("12_keypoints.json")["coco17_to_14"]
    coco = np.random.default_rng(0).uniform(size=(3, 17, 3))
    ours = coco17_to_14(coco)
    for joint, source in enumerate(sources):
        np.testing.assert_allclose(ours[:, joint, :2], coco[:, source, :2].mean(axis=1), atol=1e-12)
        np.testing.assert_allclose(ours[:, joint, 2], coco[:, source, 2].min(axis=1), atol=1e-12)
