"""Seeds that are functions of names: stable on every machine and Python version. NumPy only, for light readers."""

from __future__ import annotations

import hashlib

import numpy as np

Part = int | str


def seed_of(*parts: Part) -> int:
    """A 63-bit seed that is a stable function of `parts` (the same on every machine and Python version)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_rng(*parts: Part) -> np.random.Generator:
    """A NumPy generator seeded by `seed_of(*parts)`."""
    return np.random.Generator(np.random.Philox(seed_of(*parts)))
