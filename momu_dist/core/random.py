"""Randomness that belongs to the sample: every draw is a function of (seed, epoch, sample id, purpose).

No draw depends on rank, batch or worker, so any number of workers and any restart see the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from momu_dist.core.seeds import numpy_rng


@dataclass(frozen=True)
class SeedMix:
    """Noise between that of several seeds: the sum of each one's times its weight.

    The squares of the weights sum to 1, so that the mix of independent standard normal draws is one again.
    """

    seeds: tuple[int, ...]
    weights: tuple[float, ...]


Seed = int | SeedMix


def randn_each(seeds: Sequence[Seed], shape: Sequence[int], purpose: str) -> Tensor:
    """Standard normal noise (B, *shape), float32; row i is drawn from (seeds[i], purpose) alone.

    The first axis of `shape` is time by convention: a longer draw of the same seed starts with the shorter one (NumPy
    draws one number after the other; torch.randn does not), so what a sample is padded to does not change its noise.
    """
    rows = [_randn(seed, tuple(shape), purpose) for seed in seeds]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty((0, *shape))


def _randn(seed: Seed, shape: tuple[int, ...], purpose: str) -> NDArray[np.float32]:
    if not isinstance(seed, SeedMix):
        return numpy_rng(seed, purpose).standard_normal(shape, dtype=np.float32)
    mixed = np.zeros(shape, dtype=np.float32)
    for one, weight in zip(seed.seeds, seed.weights, strict=True):
        mixed += np.float32(weight) * _randn(one, shape, purpose)
    return mixed


def uniform_each(seeds: Sequence[int], purpose: str) -> Tensor:
    """Uniform numbers in [0, 1), shape (B,), number i drawn from (seeds[i], purpose) alone."""
    return torch.tensor([float(numpy_rng(seed, purpose).random()) for seed in seeds], dtype=torch.float32)
