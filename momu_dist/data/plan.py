"""Who sees which sample when: a pure function of the clips and the seed that does not know the number of workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from momu_dist.core.seeds import numpy_rng


@dataclass(frozen=True)
class PlannedSample:
    """One clip's turn: `clip` is its index in the split's clip table, `epoch` the pass over the data it belongs to."""

    epoch: int
    clip: int


class SamplePlan:
    """The global order of samples. Batch `step` is samples [step * G, (step + 1) * G) of the endless stream of epochs.

    Each epoch holds every clip exactly once. Row groups are shuffled, then clips within a window of row groups, so that
    a reader that keeps one window in memory reads each row group once an epoch. What is left of an epoch's last batch is
    filled from the next epoch; each sample keeps its own epoch number.
    """

    def __init__(
        self, row_groups: Sequence[Sequence[int]], seed: int, global_batch: int, window: int
    ) -> None:
        self.row_groups = [np.asarray(group, dtype=np.int64) for group in row_groups]
        self.seed = seed
        self.global_batch = global_batch
        self.window = window
        self.n_clips = sum(len(group) for group in self.row_groups)
        self._order = lru_cache(maxsize=4)(self._make_order)

    @property
    def steps_per_epoch(self) -> float:
        """Batches in one pass over the clips; not a whole number where the batch does not divide them."""
        return self.n_clips / self.global_batch

    def batch(self, step: int) -> list[PlannedSample]:
        """Return the samples of global batch `step`, for all workers together."""
        first = step * self.global_batch
        samples = []
        for position in range(first, first + self.global_batch):
            epoch, index = divmod(position, self.n_clips)
            samples.append(PlannedSample(epoch, int(self._order(epoch)[index])))
        return samples

    def share(self, step: int, rank: int, world_size: int) -> list[PlannedSample]:
        """Return the samples of batch `step` that worker `rank` of `world_size` takes: a contiguous equal part."""
        size = self.global_batch // world_size
        return self.batch(step)[rank * size : (rank + 1) * size]

    def fingerprint(self) -> str:
        """A hash of everything the order depends on."""
        sizes = ",".join(str(len(group)) for group in self.row_groups)
        text = f"{sizes}|{self.seed}|{self.global_batch}|{self.window}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _make_order(self, epoch: int) -> np.ndarray:
        rng = numpy_rng(self.seed, "plan", epoch)
        groups = [self.row_groups[i] for i in rng.permutation(len(self.row_groups))]
        windows = [np.concatenate(groups[i : i + self.window]) for i in range(0, len(groups), self.window)]
        return np.concatenate([rng.permutation(window) for window in windows])
