"""Scaling of latents: sums that add up shard by shard, and scales that undo themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from momu_dist.core.latents import LatentScale, LatentSums


def posterior(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centre, width = np.array([0.0, 3.0, -1.0]), np.array([1.0, 0.1, 4.0])
    return rng.normal(centre, width, (n, 3)).astype(np.float32), rng.normal(-1.0, 0.2, (n, 3)).astype(
        np.float32
    )


def drawn(*parts: tuple[np.ndarray, np.ndarray], repeats: int = 400) -> np.ndarray:
    mean, logvar = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    noise = np.random.default_rng(9).standard_normal((repeats, *mean.shape))
    return np.asarray((mean + np.exp(0.5 * logvar) * noise).reshape(-1, 3))


def test_scales_are_those_of_posterior_samples() -> None:
    parts = [posterior(0), posterior(1, 200)]
    sums = LatentSums.of(*parts[0]) + LatentSums.of(*parts[1])
    z = drawn(*parts)
    channel = sums.scale("channel")
    np.testing.assert_allclose(channel.shift, z.mean(0), atol=0.01)
    np.testing.assert_allclose(channel.scale, z.std(0), rtol=0.01)
    scalar = sums.scale("scalar")
    assert scalar.shift == (0.0,) * 3 and len(set(scalar.scale)) == 1
    assert scalar.scale[0] == pytest.approx(z.std(), rel=0.01)


def test_sums_of_shards_are_the_sums_of_all() -> None:
    parts = [posterior(seed, 50) for seed in range(3)]
    added = LatentSums.of(*parts[0]) + LatentSums.of(*parts[1]) + LatentSums.of(*parts[2])
    whole = LatentSums.of(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    assert added.count == whole.count == 150
    np.testing.assert_allclose(added.total, whole.total)
    np.testing.assert_allclose(added.squares, whole.squares)


def test_normalise_gives_zero_mean_and_unit_variance() -> None:
    mean, logvar = posterior(2)
    z = torch.from_numpy(drawn((mean, logvar), repeats=20).T[None].copy())
    normal = LatentSums.of(mean, logvar).scale("channel").normalise(z)
    torch.testing.assert_close(normal.mean(2), torch.zeros_like(normal.mean(2)), atol=0.02, rtol=0)
    torch.testing.assert_close(normal.std(2), torch.ones_like(normal.std(2)), atol=0.02, rtol=0)


def test_denormalise_undoes_normalise_in_the_inputs_dtype() -> None:
    scale = LatentScale((0.5, -1.0), (2.0, 0.25))
    z = torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scale.denormalise(scale.normalise(z)), z)
    assert scale.normalise(z.double()).dtype == torch.float64
    assert scale.normalise(torch.tensor([[[2.5], [0.0]]])).tolist() == [[[1.0], [4.0]]]


def test_through_json_and_back() -> None:
    sums = LatentSums.of(*posterior(3))
    again = LatentSums.from_dict(json.loads(json.dumps(sums.to_dict())))
    assert again.scale("channel") == sums.scale("channel")
    scale = sums.scale("scalar")
    assert LatentScale.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    sums = LatentSums.of(np.ones((4, 2), np.float32), np.full((4, 2), -np.inf, np.float32))
    assert np.isfinite(sums.scale("channel").normalise(torch.ones(1, 2, 4)).numpy()).all()
