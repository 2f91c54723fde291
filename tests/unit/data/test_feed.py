"""Readers give exactly the planned clips, whole and in order, whatever the number of workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from momu_dist.core.tasks.base import draw_crop
from momu_dist.data.audio_io import decode_flac
from momu_dist.data.feed import (
    FeedSpec,
    LocalFeed,
    PlanReader,
    ShardReader,
    make_plan,
    used_lengths,
    validation_rows,
)
from momu_dist.data.manifest import Manifest
from momu_dist.data.plan import Bucket, PlannedSample
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.record import table_rows
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.errors import DataError


def spec_of(prepared: Manifest, **other: object) -> FeedSpec:
    values = {
        "root": str(prepared.root),
        "columns": ("motion", "mel", "amplitude"),
        "seed": 3,
        "global_batch": 4,
        "shuffle_row_groups": 2,
        "longest": 128,
        "length_buckets": 4,
        "validation_clips": 64,
    }
    return FeedSpec(**{**values, **other})  # type: ignore[arg-type]


def clip_ids(prepared: Manifest, split: str) -> list[str]:
    return list(prepared.split(split)["clip_id"].to_pylist())


def test_the_set_has_several_shards_and_row_groups(prepared: Manifest) -> None:
    train = prepared.split("train")
    assert len(set(train["shard"].to_pylist())) > 1 and max(train["row_group"].to_pylist()) > 0


def test_reader_gives_the_planned_clips(prepared: Manifest) -> None:
    reader = PlanReader(spec_of(prepared), 0, 1)
    ids = clip_ids(prepared, "train")
    for step in range(2 * len(ids)):
        planned = reader.plan.batch(step)
        rows = table_rows(reader.read(step))
        assert [row["clip_id"] for row in rows] == [ids[sample.clip] for sample in planned]
        assert [row["epoch"] for row in rows] == [sample.epoch for sample in planned]
        assert {row["step"] for row in rows} == {step}


def test_rows_are_those_of_the_shards(prepared: Manifest) -> None:
    there = {}
    for shard in prepared.content["shards"]:
        for row in table_rows(pq.read_table(prepared.root / shard["file"])):
            there[row["clip_id"]] = row
    for row in table_rows(PlanReader(spec_of(prepared), 0, 1).read(0)):
        for name in ("motion", "mel", "amplitude"):
            np.testing.assert_array_equal(row[name], there[row["clip_id"]][name])
        assert row["motion"].shape == (row["length"], 14, 2) and row["mel"].shape == (80, row["length"])


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_what_one_would_read(prepared: Manifest, workers: int) -> None:
    spec = spec_of(prepared)
    one = PlanReader(spec, 0, 1)
    several = [PlanReader(spec, rank, workers) for rank in range(workers)]
    for step in range(5):
        parts = [row["clip_id"] for reader in several for row in table_rows(reader.read(step))]
        assert parts == [row["clip_id"] for row in table_rows(one.read(step))]


def test_the_form_of_ray_data_gives_the_same_tables(prepared: Manifest) -> None:
    reader = PlanReader(spec_of(prepared), 0, 1)
    tables = list(reader({"id": np.array([5, 0])}))
    assert [table.equals(reader.read(step)) for table, step in zip(tables, (5, 0), strict=True)] == [
        True,
        True,
    ]


def test_memory_holds_no_more_row_groups_than_asked(prepared: Manifest) -> None:
    reader = ShardReader(str(prepared.root), "train", ("mel",), keep=1)
    plan = make_plan(spec_of(prepared))
    for step in range(4):
        assert reader.rows(plan.batch(step)).num_rows == 4
        assert len(reader._tables) == 1


def test_a_batch_holds_clips_of_one_length(unlike: Manifest) -> None:
    reader = PlanReader(spec_of(unlike), 0, 1)
    assert reader.plan.buckets == [Bucket(8, 62), Bucket(8, 92)]
    for step in range(8):
        assert len({row["length"] for row in table_rows(reader.read(step))}) == 1
        assert len(reader.reader._tables) <= reader.plan.row_groups_at_hand


def test_lengths_beyond_the_longest_crop_are_equal(unlike: Manifest) -> None:
    assert make_plan(spec_of(unlike, longest=64)).buckets == [Bucket(8, 62), Bucket(8, 64)]
    assert make_plan(spec_of(unlike, longest=62)).buckets == [Bucket(16, 62)]
    assert make_plan(spec_of(unlike, length_buckets=1)).buckets == [Bucket(16, 92)]


@pytest.mark.parametrize("longest", [2, 8, 13])
def test_used_lengths_are_those_of_the_longest_crops(longest: int) -> None:
    lengths = np.arange(2, 20)
    drawn = [draw_crop(0, int(length), longest, longest) for length in lengths]
    assert used_lengths(lengths, longest).tolist() == [stop - start for start, stop in drawn]


def test_local_feed_starts_where_it_is_told(prepared: Manifest) -> None:
    feed = LocalFeed(spec_of(prepared))
    whole = [[row["clip_id"] for row in rows] for rows in feed.steps(0, 6)]
    assert [[row["clip_id"] for row in rows] for rows in feed.steps(4, 6)] == whole[4:]
    assert len(whole) == 6 and list(feed.steps(6, 6)) == []
    assert feed.plan_fingerprint == make_plan(spec_of(prepared)).fingerprint()


def test_a_step_that_cannot_be_read_fails_when_its_turn_comes(
    prepared: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = LocalFeed(spec_of(prepared))
    read = feed.reader.read

    def damaged(step: int) -> pa.Table:
        if step == 2:
            raise DataError("torn")
        return read(step)

    monkeypatch.setattr(feed.reader, "read", damaged)
    steps = feed.steps(0, 6)
    assert len(next(steps)) == len(next(steps)) > 0
    with pytest.raises(DataError, match="torn"):
        next(steps)
    steps = feed.steps(0, 6)
    next(steps)
    steps.close()  # with a step in the air


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_every_worker_gets_as_many_validation_clips(prepared: Manifest, workers: int) -> None:
    alone = [row["clip_id"] for row in validation_rows(spec_of(prepared), 0, 1)]
    parts = [validation_rows(spec_of(prepared), rank, workers) for rank in range(workers)]
    assert len({len(part) for part in parts}) == 1
    counted = [row["clip_id"] for part in parts for row in part if not row["repeated"]]
    assert sorted(counted) == sorted(alone) and len(set(alone)) == len(alone) == 3
    assert set(alone) <= set(clip_ids(prepared, "val"))


def test_validation_is_the_same_each_time_and_bounded(prepared: Manifest) -> None:
    spec = spec_of(prepared, validation_clips=2)
    first, again = (LocalFeed(spec).validation() for _ in range(2))
    assert [row["clip_id"] for row in first] == [row["clip_id"] for row in again]
    assert len(first) == 2
    assert validation_rows(spec_of(prepared, validation_clips=0), 0, 1) == []


def test_a_shard_that_cannot_be_read_is_named(prepared: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "torn"
    shutil.copytree(prepared.root, root)
    for path in (root / "train").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        DataError, match=r"train/0000\d\.parquet cannot be read .* run the same `momu prepare` command again"
    ):
        PlanReader(spec_of(prepared, root=str(root)), 0, 1).read(0)


def test_no_training_clips_is_an_error(prepared: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "no-train"
    shutil.copytree(prepared.root, root)
    index = pq.read_table(root / "index.parquet")
    pq.write_table(
        index.filter([split != "train" for split in index["split"].to_pylist()]), root / "index.parquet"
    )
    with pytest.raises(DataError, match="no training clips"):
        make_plan(spec_of(prepared, root=str(root)))


def test_the_decoded_waveform_is_the_stored_sound(prepared: Manifest) -> None:
    stored = {}
    for shard in prepared.content["shards"]:
        for row in table_rows(pq.read_table(prepared.root / shard["file"])):
            stored[row["clip_id"]] = decode_flac(row["audio"])[0]
    spec = spec_of(prepared, columns=("mel", "waveform"))
    reader = PlanReader(spec, 0, 1)
    assert set(reader.read(0).column_names) == {"clip_id", "length", "mel", "waveform", "epoch", "step"}
    for row in [*table_rows(reader.read(0)), *validation_rows(spec, 0, 1)]:
        np.testing.assert_array_equal(row["waveform"], stored[row["clip_id"]])
        assert row["waveform"].shape == (256 * row["length"],) and row["waveform"].dtype == np.float32


def test_a_waveform_in_a_file_of_its_own_is_the_same_and_a_lost_one_is_named(tmp_path: Path) -> None:
    read = {}
    for audio in ("flac", "path"):
        options = PrepareOptions(audio=audio)  # type: ignore[arg-type]
        prepare(Synthetic(n_clips=4, clip_s=1.0), tmp_path / audio, options, progress=False)
        reader = ShardReader(str(tmp_path / audio), "train", ("waveform",), keep=1)
        (read[audio],) = table_rows(reader.rows([PlannedSample(0, 1)]))
    np.testing.assert_array_equal(read["flac"]["waveform"], read["path"]["waveform"])
    shutil.rmtree(tmp_path / "path" / "audio")
    with pytest.raises(DataError, match=r"synthetic_s0_\d+\.flac cannot be read.*prepare the data again"):
        reader.rows([PlannedSample(0, 1)])
