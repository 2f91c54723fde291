"""Who sees which sample when: a pure function of the clips and the seed that does not know the number of workers."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
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


@dataclass(frozen=True)
class Bucket:
    """Clips of nearly one length: how many, and the length of the longest."""

    clips: int
    longest: int


@dataclass(frozen=True)
class _Epoch:
    """One pass over the clips: each bucket's clips in their order, and the batches (bucket, number) that it fills."""

    clips: list[np.ndarray]
    batches: list[tuple[int, int]]


class SamplePlan:
    """The global order of samples: batch `step` is what all workers together take in that step.

    Each epoch holds every clip exactly once. Row groups are shuffled, then clips within a window of row groups, so that
    a reader that keeps one window in memory reads each row group once an epoch. In that order, epoch after epoch, each
    clip joins the queue of its bucket; a queue of `global_batch` clips is the next batch. So a batch holds one bucket's
    clips and little padding. What an epoch leaves in a queue waits for the next one; each sample keeps its own epoch.

    `lengths`, one a clip in any unit, only choose the buckets, at most `most_buckets`. With one bucket, batch `step` is
    samples [step * G, (step + 1) * G) of the endless stream of epochs. There must be a clip.
    """

    def __init__(
        self,
        row_groups: Sequence[Sequence[int]],
        lengths: Sequence[int] | np.ndarray,
        seed: int,
        global_batch: int,
        window: int,
        most_buckets: int = 1,
    ) -> None:
        self.row_groups = [np.asarray(group, dtype=np.int64) for group in row_groups]
        self.seed = seed
        self.global_batch = global_batch
        self.window = window
        self.n_clips = sum(len(group) for group in self.row_groups)
        self.buckets = choose_buckets(lengths, most_buckets, global_batch)
        self._bucket_of = np.searchsorted([bucket.longest for bucket in self.buckets], lengths)
        self._epoch = lru_cache(maxsize=4)(self._make_epoch)

    @property
    def steps_per_epoch(self) -> float:
        """Batches in one pass over the clips; not a whole number where the batch does not divide them."""
        return self.n_clips / self.global_batch

    @property
    def row_groups_at_hand(self) -> int:
        """Row groups that a reader keeps to read hardly any twice in an epoch, whatever waits in the queues."""
        # The order itself needs the window, and two more for a batch across its end.
        if len(self.buckets) == 1:
            return self.window + 2
        # A batch of the rarest bucket is gathered from G / (its share of the clips) clips of the order: at most
        # 2 * most_buckets * G, as `choose_buckets` sees to, however large the set is.
        rarest = min(bucket.clips for bucket in self.buckets)
        return self.window + 2 + -(-self.global_batch * len(self.row_groups) // rarest)

    def batch(self, step: int) -> list[PlannedSample]:
        """Return the samples of global batch `step`, for all workers together."""
        # Less than a batch waits in each bucket: the epochs before e fill more than e * steps_per_epoch - buckets batches.
        end = (step + len(self.buckets)) * self.global_batch // self.n_clips + 1
        epoch = bisect_right(range(end), step, key=self._steps_before) - 1
        bucket, number = self._epoch(epoch).batches[step - self._steps_before(epoch)]
        samples = []
        for position in range(number * self.global_batch, (number + 1) * self.global_batch):
            own, index = divmod(position, self.buckets[bucket].clips)
            samples.append(PlannedSample(own, int(self._epoch(own).clips[bucket][index])))
        return samples

    def share(self, step: int, rank: int, world_size: int) -> list[PlannedSample]:
        """Return the samples of batch `step` that worker `rank` of `world_size` takes: a contiguous equal part."""
        size = self.global_batch // world_size
        return self.batch(step)[rank * size : (rank + 1) * size]

    def fingerprint(self) -> str:
        """A hash of everything the order depends on, and of its beginning: NumPy may draw otherwise in another version."""
        sizes = ",".join(str(len(group)) for group in self.row_groups)
        text = f"{sizes}|{self.seed}|{self.global_batch}|{self.window}"
        if len(self.buckets) > 1:  # one bucket is the order without buckets
            text += "|" + ",".join(map(str, self._bucket_of))
        return hashlib.sha256(text.encode() + self._order(0).tobytes()).hexdigest()[:16]

    def _steps_before(self, epoch: int) -> int:
        """The batches that the epochs before `epoch` fill."""
        return sum(self._filled(bucket, epoch) for bucket in range(len(self.buckets)))

    def _filled(self, bucket: int, epoch: int) -> int:
        """The batches of `bucket` that the epochs before `epoch` fill."""
        return epoch * self.buckets[bucket].clips // self.global_batch

    def _make_epoch(self, epoch: int) -> _Epoch:
        order = self._order(epoch)
        bucket_of = self._bucket_of[order]
        clips, filled = [], []
        for bucket, size in enumerate(self.buckets):
            places = np.flatnonzero(bucket_of == bucket)
            clips.append(order[places])
            for number in range(self._filled(bucket, epoch), self._filled(bucket, epoch + 1)):
                last = (number + 1) * self.global_batch - 1 - epoch * size.clips
                filled.append((places[last], bucket, number))
        return _Epoch(clips, [(bucket, number) for _, bucket, number in sorted(filled)])

    def _order(self, epoch: int) -> np.ndarray:
        rng = numpy_rng(self.seed, "plan", epoch)
        groups = [self.row_groups[i] for i in rng.permutation(len(self.row_groups))]
        windows = [np.concatenate(groups[i : i + self.window]) for i in range(0, len(groups), self.window)]
        return np.concatenate([rng.permutation(window) for window in windows])


def choose_buckets(lengths: Sequence[int] | np.ndarray, most: int, least: int) -> list[Bucket]:
    """Return at most `most` buckets of nearly equal count, of rising length, for clips of these lengths.

    Clips of equal length are never parted, so equal lengths give one bucket. Where there are several, each has at least
    `least` clips (at least 1), and half of an even share. No clips are no bucket.
    """
    ordered = np.sort(np.asarray(lengths, dtype=np.int64))
    n = len(ordered)
    cuts = np.flatnonzero(np.diff(ordered)) + 1  # where a longer length begins
    # A rarer length would fill its batches from clips far apart in the order.
    least = max(least, n // (2 * most))
    parts = min(most, n // least) if len(cuts) else 1
    ends = [0]
    for part in range(1, parts):
        cut = int(cuts[np.abs(cuts * parts - part * n).argmin()])
        if min(cut - ends[-1], n - cut) >= least:
            ends.append(cut)
    ends += [n] * (n > 0)
    return [Bucket(end - start, int(ordered[end - 1])) for start, end in zip(ends, ends[1:], strict=False)]
