"""Scaling of latents for diffusion: statistics over all training latents of a modality, stored with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Scaling = Literal["scalar", "channel"]


@dataclass(frozen=True)
class LatentScale:
    """z_normal = (z - shift) / scale, per channel; `shift` and `scale` have C entries each."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def normalise(self, z: Tensor) -> Tensor:
        """Return (B, C, L) latents with about unit variance."""
        return (z - self._column(self.shift, z)) / self._column(self.scale, z)

    def denormalise(self, z: Tensor) -> Tensor:
        """Return (B, C, L) latents as the VAE knows them."""
        return z * self._column(self.scale, z) + self._column(self.shift, z)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists for JSON."""
        return {"shift": list(self.shift), "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> LatentScale:
        """Inverse of `to_dict`."""
        return cls(shift=tuple(tree["shift"]), scale=tuple(tree["scale"]))


@dataclass(frozen=True)
class LatentSums:
    """Sums over latents that can be added shard by shard: count, sum and sum of squares per channel (float64)."""

    count: int
    total: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, logvar: np.ndarray) -> LatentSums:
        """Return the sums of one clip's posterior (L, C): a sample's second moment is mean^2 + variance."""
        mean = mean.astype(np.float64)
        squares = mean**2 + np.exp(logvar.astype(np.float64))
        return cls(len(mean), mean.sum(0), squares.sum(0))

    def __add__(self, other: LatentSums) -> LatentSums:
        return LatentSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def scale(self, scaling: Scaling) -> LatentScale:
        """Return the scale: `scalar` divides all channels by one standard deviation (LDM), `channel` each by its own."""
        mean = self.total / self.count
        if scaling == "scalar":
            variance = self.squares.mean() / self.count - mean.mean() ** 2
            return LatentScale((0.0,) * len(mean), (float(np.sqrt(variance)),) * len(mean))
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 1e-12))
        return LatentScale(tuple(mean.tolist()), tuple(deviation.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists for JSON."""
        return {"count": self.count, "total": self.total.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> LatentSums:
        """Inverse of `to_dict`."""
        return cls(int(tree["count"]), np.array(tree["total"]), np.array(tree["squares"]))
