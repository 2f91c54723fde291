"""Spectral distances: perfect, empty, bad, and worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from momu_dist.core.metrics.spectral import mel_distance, stft_distance, validate
from momu_dist.errors import DataError

DISTANCES = (mel_distance, stft_distance)
Distance = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)).clamp(-4, 4) * 0.2


@pytest.mark.parametrize("distance", DISTANCES)
def test_perfect_and_empty(distance: Distance, noise: Tensor) -> None:
    assert distance(noise, noise.clone()).tolist() == [0.0, 0.0, 0.0]
    assert distance(noise[:0], noise[:0]).shape == (0,)
    silence = torch.zeros_like(noise)
    assert distance(silence, silence).tolist() == [0.0, 0.0, 0.0]


def test_a_tenth_of_the_amplitude_by_hand(noise: Tensor) -> None:
    """Every magnitude is a tenth: one decade of mel, spectral convergence .9 and ln 10 of log magnitude."""
    torch.testing.assert_close(mel_distance(noise, 0.1 * noise), torch.ones(3), rtol=1e-3, atol=0)
    expected = torch.full((3,), 0.9 + math.log(10.0))
    torch.testing.assert_close(stft_distance(noise, 0.1 * noise), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_phases_do_not_count_and_noise_does(distance: Distance, noise: Tensor) -> None:
    assert distance(noise, -noise).max().item() < 1e-5
    little, much = (distance(noise, noise + k * noise.flip(0)) for k in (0.1, 1.0))
    assert bool((little > 0).all()) and bool((little < much).all())


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_sample_does_not_know_its_batch(distance: Distance, noise: Tensor) -> None:
    other = 0.3 * noise.flip(0)
    torch.testing.assert_close(distance(noise, other)[1:2], distance(noise[1:2], other[1:2]))


@pytest.mark.parametrize("distance", DISTANCES)
def test_silence_is_far_and_finite(distance: Distance, noise: Tensor) -> None:
    for pair in ((noise, 0 * noise), (0 * noise, noise)):
        assert bool((distance(*pair) > 1).all()) and bool(torch.isfinite(distance(*pair)).all())


def test_what_cannot_be_compared_is_refused(noise: Tensor) -> None:
    bad = {
        "shapes": (noise, noise[:, :-1]),
        "2048": (noise[:, :2000], noise[:, :2000]),
        r"\(B, n\)": (noise[0], noise[0]),
        "floats": (noise, noise.to(torch.int16)),
        "not finite": (noise, noise * float("nan")),
    }
    for sentence, pair in bad.items():
        with pytest.raises(DataError, match=sentence):
            validate(*pair)


def test_a_silent_reference_does_not_outweigh_all_others(noise: Tensor) -> None:
    assert float(stft_distance(0 * noise, 1e-3 * noise / noise.std()).max()) < 10
