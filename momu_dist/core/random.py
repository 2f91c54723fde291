"""Randomness that belongs to the sample: every draw is a function of (seed, epoch, sample id, purpose).

No draw depends on rank, batch or worker, so any number of workers and any restart see the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from momu_dist.core.seeds import numpy_rng


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
