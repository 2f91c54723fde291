"""Reading exactly the samples that the plan names, from parquet shards, with or without Ray."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from momu_dist.data.index import how_to_mend, load_index
from momu_dist.data.plan import PlannedSample, SamplePlan
from momu_dist.data.record import table_rows
from momu_dist.errors import DataError

WAVEFORM = "waveform"
"""A column that no shard holds: the reader decodes it, (256 * length,) float32 at 16 kHz, from whichever audio there is."""
_STORED_AUDIO = ("audio", "audio_path")


@dataclass(frozen=True)
class FeedSpec:
    """Everything a reader anywhere needs: plain values that travel to workers."""

    root: str
    columns: tuple[str, ...]
    seed: int
    global_batch: int
    shuffle_row_groups: int
    longest: int  # crop, in what the index counts: mel frames, or latents
    length_buckets: int  # at most so many
    validation_clips: int


class ShardReader:
    """Clips of one split of a prepared folder by index, keeping the last `keep` row groups in memory.

    `columns` are those of `record.SCHEMA` or of latents, or WAVEFORM; clip_id and length always come with them.
    """

    def __init__(self, root: str, split: str, columns: Sequence[str], keep: int) -> None:
        self.root = Path(root)
        index = load_index(self.root)
        self.index = index.filter(pc.equal(index["split"], split))
        self.decodes = WAVEFORM in columns
        stored = [name for name in columns if name != WAVEFORM]
        self.columns = ["clip_id", "length", *stored, *(_STORED_AUDIO if self.decodes else ())]
        self.keep = keep
        self._place = list(
            zip(*(self.index[name].to_pylist() for name in ("shard", "row_group", "row")), strict=True)
        )
        self._tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()

    def row_groups(self) -> list[list[int]]:
        """Return clip indices by row group, in the order of the index."""
        groups: dict[tuple[str, int], list[int]] = {}
        for clip, (shard, row_group, _) in enumerate(self._place):
            groups.setdefault((shard, row_group), []).append(clip)
        return list(groups.values())

    def lengths(self) -> np.ndarray:
        """Return the clips' lengths in the order of the index: mel frames, or latents."""
        return np.asarray(self.index["length"].to_numpy())

    def __len__(self) -> int:
        return len(self._place)

    def rows(self, samples: Sequence[PlannedSample]) -> pa.Table:
        """Return the table of `samples` in their order, with their epoch as a column."""
        parts = []
        for sample in samples:
            shard, row_group, row = self._place[sample.clip]
            parts.append(self._table(shard, row_group).slice(row, 1))
        table = pa.concat_tables(parts).combine_chunks()
        if self.decodes:
            sounds = [table[name].to_pylist() for name in _STORED_AUDIO]
            table = table.drop_columns(list(_STORED_AUDIO)).append_column(
                WAVEFORM, _decoded(self.root, *sounds)
            )
        return table.append_column("epoch", pa.array([sample.epoch for sample in samples], pa.int32()))

    def _table(self, shard: str, row_group: int) -> pa.Table:
        key = (shard, row_group)
        if key not in self._tables:
            path = self.root / shard
            try:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    self._tables[key] = file.read_row_group(row_group, columns=self.columns)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path} cannot be read ({error}); {how_to_mend(path)}.") from error
            if len(self._tables) > self.keep:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]


def _decoded(root: Path, flacs: Sequence[bytes], paths: Sequence[str]) -> pa.Array:
    """Lists of samples, one a clip, from FLAC bytes or, where they are empty, from the FLAC file at root / path."""
    # Imported here: only one stage wants sound, and readers of the others start without a media library.
    from momu_dist.data.audio_io import decode_flac

    sounds = []
    for flac, path in zip(flacs, paths, strict=True):
        try:
            sounds.append(decode_flac(flac or (root / path).read_bytes())[0])
        except OSError as error:
            raise DataError(f"{root / path} cannot be read ({error}); prepare the data again.") from error
    offsets = np.cumsum([0, *(len(sound) for sound in sounds)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(sounds), type=pa.float32()))


class PlanReader:
    """Turns step numbers into this worker's rows; the same class works inside Ray Data and in a plain loop."""

    def __init__(self, spec: FeedSpec, rank: int, world_size: int) -> None:
        self.reader = ShardReader(spec.root, "train", spec.columns, keep=1)
        self.plan = make_plan(spec, self.reader)
        # Clips that wait for their batch lie in row groups of former windows; one that was let go is read again.
        self.reader.keep = self.plan.row_groups_at_hand
        self.rank = rank
        self.world_size = world_size

    def read(self, step: int) -> pa.Table:
        """Return the rows of global batch `step` that belong to this worker, with the step as a column."""
        table = self.reader.rows(self.plan.share(step, self.rank, self.world_size))
        return table.append_column("step", pa.array([step] * table.num_rows, pa.int64()))

    def __call__(self, block: dict[str, Any]) -> Iterator[pa.Table]:
        """Ray Data's form: a block of step numbers in column `id`, one table a step out."""
        for step in block["id"]:
            yield self.read(int(step))


class LocalFeed:
    """A worker's feed in a plain loop, without Ray."""

    def __init__(self, spec: FeedSpec, rank: int = 0, world_size: int = 1) -> None:
        self.spec = spec
        self.reader = PlanReader(spec, rank, world_size)
        self.plan_fingerprint = self.reader.plan.fingerprint()

    def steps(self, first: int, total: int) -> Iterator[Sequence[dict[str, Any]]]:
        if first >= total:
            return
        # A step is read while the one before it computes: decoding files holds up no other thread, and a GPU's steps are short.
        with ThreadPoolExecutor(1, "feed") as thread:
            ahead = thread.submit(self._rows, first)
            for step in range(first, total):
                rows = ahead.result()
                if step + 1 < total:
                    ahead = thread.submit(self._rows, step + 1)
                yield rows

    def _rows(self, step: int) -> Sequence[dict[str, Any]]:
        return table_rows(self.reader.read(step))

    def validation(self) -> Sequence[dict[str, Any]]:
        return validation_rows(self.spec, self.reader.rank, self.reader.world_size)


def make_plan(spec: FeedSpec, reader: ShardReader | None = None) -> SamplePlan:
    """Return the plan of the training split under `spec`."""
    reader = reader or ShardReader(spec.root, "train", (), keep=1)
    if not len(reader):
        raise DataError(f"{spec.root} has no training clips; prepare more data or other split fractions.")
    return SamplePlan(
        reader.row_groups(),
        used_lengths(reader.lengths(), spec.longest),
        spec.seed,
        spec.global_batch,
        spec.shuffle_row_groups,
        spec.length_buckets,
    )


def used_lengths(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Return how long the longest crop of each clip is where crops are even and at most `longest` (`draw_crop`)."""
    return np.minimum(lengths, longest) // 2 * 2


def validation_rows(spec: FeedSpec, rank: int, world_size: int) -> list[dict[str, Any]]:
    """Return this worker's validation clips, spread over the split; together the workers have each clip once.

    Every worker gets the same number, since networks may be wrapped in ways that compute together only: where they do not
    divide, the last ones get a clip once more, marked `repeated`.
    """
    reader = ShardReader(spec.root, "val", spec.columns, keep=2)
    n = min(len(reader), spec.validation_clips)
    places = range(rank, -(-n // world_size) * world_size, world_size)
    rows = (
        table_rows(reader.rows([PlannedSample(0, place % n * len(reader) // n) for place in places]))
        if n
        else []
    )
    return [{**row, "repeated": place >= n} for row, place in zip(rows, places, strict=True)]
