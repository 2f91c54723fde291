"""Normalisation and the sums behind its statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from momu_dist.core.motion.bones import limb_lengths
from momu_dist.core.motion.normalise import MotionStats, MotionSums
from momu_dist.core.motion.skeleton import NECK
from momu_dist.errors import ClipError, DataError


def motion(seed: int, frames: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal((320, 240), (60, 30), size=(frames, 14, 2))


def test_statistics_by_hand() -> None:
    points = motion(0)
    stats = MotionSums.of(points).stats()
    np.testing.assert_allclose(stats.centre, points.mean(axis=(0, 1)))
    np.testing.assert_allclose(stats.scale, np.sqrt(((points - points.mean(axis=(0, 1))) ** 2).mean()))
    np.testing.assert_allclose(stats.bone_lengths_px, limb_lengths(points).mean(axis=0))


def test_sums_of_shards_add_up() -> None:
    parts = [motion(seed, frames) for seed, frames in enumerate((10, 0, 35))]
    added = sum((MotionSums.of(part) for part in parts), MotionSums()).stats()
    whole = MotionSums.of(np.concatenate(parts)).stats()
    np.testing.assert_allclose(added.centre, whole.centre, rtol=1e-12)
    np.testing.assert_allclose(added.scale, whole.scale, rtol=1e-12)
    np.testing.assert_allclose(added.bone_lengths_px, whole.bone_lengths_px, rtol=1e-12)


def test_normalised_has_zero_mean_unit_variance_and_keeps_angles() -> None:
    points = motion(1)
    normal = MotionSums.of(points).stats().normalise(points)
    np.testing.assert_allclose(normal.mean(axis=(0, 1)), 0, atol=1e-9)
    np.testing.assert_allclose((normal**2).mean(), 1)
    before, after = np.diff(points, axis=0), np.diff(normal, axis=0)
    np.testing.assert_allclose(
        np.arctan2(before[..., 1], before[..., 0]), np.arctan2(after[..., 1], after[..., 0])
    )


def test_travel_apart_scales_the_body_without_its_place() -> None:
    rng = np.random.default_rng(4)
    points = motion(4) * 0.1 + rng.normal(0, 500, size=(40, 1, 2))
    stats = (MotionSums.of(points[:11]) + MotionSums.of(points[11:])).stats(travel_apart=True)
    normal = stats.normalise(points)
    body = np.delete(points - points[:, [NECK]], NECK, axis=1)
    np.testing.assert_allclose(stats.pose_scale, np.sqrt((body**2).mean()))
    np.testing.assert_allclose(np.delete(normal, NECK, axis=1), body / stats.pose_scale)
    np.testing.assert_allclose(normal[:, NECK], (points[:, NECK] - np.array(stats.centre)) / stats.scale)
    moved = stats.normalise(points + [300.0, -50.0])
    np.testing.assert_allclose(np.delete(moved - normal, NECK, axis=1), 0, atol=1e-9)


@pytest.mark.parametrize("travel_apart", [False, True])
def test_round_trip_in_numpy_and_torch_keeps_kind_and_dtype(travel_apart: bool) -> None:
    points = motion(2).astype(np.float32)
    stats = MotionSums.of(points).stats(travel_apart)
    before = points.copy()
    normal = stats.normalise(points)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(stats.denormalise(normal), points, atol=1e-3)
    np.testing.assert_array_equal(points, before)
    tensor = stats.normalise(torch.from_numpy(points))
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), normal, atol=1e-6)
    np.testing.assert_allclose(stats.denormalise(tensor[None])[0].numpy(), points, atol=1e-3)


def test_json_round_trip_is_exact() -> None:
    sums = MotionSums.of(motion(3))
    assert MotionSums.from_dict(json.loads(json.dumps(sums.to_dict()))) == sums
    for stats in (sums.stats(), sums.stats(travel_apart=True)):
        assert MotionStats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(DataError, match="no motion was counted"):
        MotionSums.of(np.zeros((0, 14, 2))).stats()
    with pytest.raises(DataError, match="scale is 0"):
        MotionSums.of(np.zeros((5, 14, 2))).stats()
    with pytest.raises(ClipError, match="finite"):
        MotionSums.of(np.full((5, 14, 2), np.nan))
    with pytest.raises(DataError, match="lack 'scale'"):
        MotionStats.from_dict({"centre": [0, 0], "bone_lengths_px": [1] * 13})
    with pytest.raises(DataError, match="pose_scale is 0"):
        MotionStats((0.0, 0.0), 1.0, (1.0,) * 13, pose_scale=0.0)
