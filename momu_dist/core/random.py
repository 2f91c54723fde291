"""Randomness that belongs to the sample: every draw is a function of (seed, epoch, sample id, purpose).

No draw depends on rank, batch or worker, so any number of workers and any restart see the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Part = int | str


def seed_of(*parts: Part) -> int:
    """A 63-bit seed that is a stable function of `parts` (the same on every machine and Python version)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_rng(*parts: Part) -> np.random.Generator:
    """A NumPy generator seeded by `seed_of(*parts)`."""
    return np.random.Generator(np.random.Philox(seed_of(*parts)))


def randn_each(seeds: Sequence[int], shape: Sequence[int], purpose: str) -> Tensor:
    """Standard normal noise (B, *shape), float32; row i is drawn from (seeds[i], purpose) alone.

    The first axis of `shape` is time by convention: a longer draw of the same seed starts with the shorter one (NumPy
    draws one number after the other; torch.randn does not), so what a sample is padded to does not change its noise.
    """
    rows = [numpy_rng(seed, purpose).standard_normal(tuple(shape), dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty((0, *shape))


def uniform_each(seeds: Sequence[int], purpose: str) -> Tensor:
    """Uniform numbers in [0, 1), shape (B,), number i drawn from (seeds[i], purpose) alone."""
    return torch.tensor([float(numpy_rng(seed, purpose).random()) for seed in seeds], dtype=torch.float32)
