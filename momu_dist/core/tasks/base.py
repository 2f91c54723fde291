"""What every stage shares: the contract of a task, its batches, and crops that belong to the sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from momu_dist.core.latents import LatentScale
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.seeds import numpy_rng

Row = Mapping[str, Any]
Networks = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Batch:
    """Samples of unlike length, padded with zeros at the end of time (the last axis).

    `lengths` (B,) counts valid frames (VAE stages, 62.5 Hz) or latents (diffusion, 31.25 Hz). `seeds` are functions of
    (run seed, epoch, clip id): every random number of a sample comes from its own seed.
    """

    clip_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    lengths: Tensor
    tensors: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on `device`."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return replace(self, lengths=self.lengths.to(device), tensors=moved)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


@dataclass(frozen=True)
class Phase:
    """One network's turn on a batch: `total` is what is differentiated, `parts` is what is logged."""

    network: str
    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class TaskInputs:
    """What a task is given besides its own configuration. Stages take what they need; the rest is None."""

    length_frames: tuple[int, int]
    motion_stats: MotionStats | None = None
    music_vae: Autoencoder | None = None
    latent_scales: Mapping[str, LatentScale] | None = None


class Task(Protocol):
    """One training stage. Networks to train come back wrapped as arguments of `phases`; frozen ones live in the task."""

    columns: tuple[str, ...]

    def networks(self) -> dict[str, nn.Module]:
        """Return new, untrained networks by name; the first is the one the stage exists for."""

    def to(self, device: torch.device) -> None:
        """Move frozen networks and tables to `device`."""

    def collate(self, rows: Sequence[Row], seeds: Sequence[int]) -> Batch:
        """Return the batch of `rows`, cropped by their own seeds."""

    def phases(self, networks: Networks, batch: Batch, progress: float) -> Iterator[Phase]:
        """Yield each network's loss in order; the caller does backward and step before asking for the next.

        `progress` in [0, 1) is the share of the run that is done.
        """

    def validate(self, networks: Networks, batch: Batch) -> dict[str, Tensor]:
        """Return per-sample values (B,) by metric name; NaN where a sample has none. Called without gradients."""


def draw_crop(seed: int, length: int, shortest: int, longest: int) -> tuple[int, int]:
    """Return (start, stop) of an even-sized, even-aligned crop of a clip of `length` frames, a function of `seed`.

    The crop's length is uniform in [shortest, longest] frames; a shorter clip is used whole (its last odd frame dropped).
    """
    rng = numpy_rng(seed, "crop")
    drawn = int(rng.integers(shortest // 2, longest // 2 + 1)) * 2
    size = min(drawn, length - length % 2)
    start = int(rng.integers(0, (length - size) // 2 + 1)) * 2
    return start, start + size


def pad_stack(arrays: Sequence[np.ndarray]) -> Tensor:
    """Return (B, ..., T_max) float32 of arrays (..., T) of unlike length, zeros at the end."""
    longest = max(array.shape[-1] for array in arrays)
    out = np.zeros((len(arrays), *arrays[0].shape[:-1], longest), dtype=np.float32)
    for row, array in zip(out, arrays, strict=True):
        row[..., : array.shape[-1]] = array
    return torch.from_numpy(out)


def make_batch(rows: Sequence[Row], seeds: Sequence[int], crops: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    """Return the batch of cropped arrays (each (..., n) along time); all arrays of one sample have the same n."""
    names = crops[0].keys()
    lengths = [next(iter(crop.values())).shape[-1] for crop in crops]
    return Batch(
        clip_ids=tuple(str(row["clip_id"]) for row in rows),
        seeds=tuple(seeds),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        tensors={name: pad_stack([crop[name] for crop in crops]) for name in names},
    )


def motion_channels(motion_px: np.ndarray, stats: MotionStats) -> np.ndarray:
    """Return normalised motion as channels (28, T) = x0, y0, x1, y1, ... from pixels (T, 14, 2)."""
    normalised = np.asarray(stats.normalise(motion_px), dtype=np.float32)
    return normalised.reshape(len(normalised), -1).T


def motion_from_channels(channels: np.ndarray, stats: MotionStats) -> np.ndarray:
    """Return pixels (T, 14, 2) from normalised channels (28, T); inverse of `motion_channels`."""
    normalised = channels.T.reshape(channels.shape[-1], -1, 2)
    return np.asarray(stats.denormalise(normalised), dtype=np.float32)


def required(value: Any, what: str) -> Any:
    """Return `value`, which the caller of the task promised to give."""
    assert value is not None, f"the task was built without {what}"
    return value
