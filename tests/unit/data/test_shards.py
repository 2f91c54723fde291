"""Units and shards: sizes, row groups, audio inside or beside, sums that add up."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from momu_dist.core.motion.normalise import MotionSums
from momu_dist.data.audio_io import decode_flac
from momu_dist.data.record import ClipRef, Record, table_rows
from momu_dist.data.shards import BYTES_PER_SECOND, MelSums, ShardMaker, finished, make_units
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.errors import DataError

SOURCE = Synthetic(n_clips=7, clip_s=1.5)


def unit(out_dir: Path, audio: str = "flac", row_group_clips: int = 3) -> dict[str, object]:
    (only,) = make_units(SOURCE.refs(), "train", 128.0, out_dir, audio, row_group_clips, "plan")
    return only


def test_units_are_near_the_wanted_size_and_cover_all_refs_in_order() -> None:
    refs = [ClipRef(str(k), "g", 0.0, 25.0, {}) for k in range(1000)]
    units = make_units(refs, "train", 128.0, Path("x"), "flac", 32, "plan")
    sizes_mb = [len(part["refs"]) * 25 * BYTES_PER_SECOND / 1e6 for part in units]
    assert all(100 < size < 160 for size in sizes_mb)
    assert [ref["clip_id"] for part in units for ref in part["refs"]] == [ref.clip_id for ref in refs]
    assert len({part["shard"] for part in units}) == len(units)
    assert make_units([], "val", 128.0, Path("x"), "flac", 32, "plan") == []


def test_row_groups_hold_what_the_side_file_says(tmp_path: Path) -> None:
    result = ShardMaker(SOURCE)(unit(tmp_path))
    file = pq.ParquetFile(tmp_path / "train" / "00000.parquet")
    groups = [file.read_row_group(k) for k in range(file.num_row_groups)]
    assert result["row_groups"] == [group.num_rows for group in groups] == [3, 3, 1]
    for clip in result["clips"]:
        row = table_rows(groups[clip["row_group"]])[clip["row"]]
        assert (row["clip_id"], row["length"]) == (clip["clip_id"], clip["length"])


@pytest.mark.parametrize("audio", ["flac", "path"])
def test_audio_is_what_the_mel_was_made_of(tmp_path: Path, audio: str) -> None:
    ShardMaker(SOURCE)(unit(tmp_path, audio))
    row = table_rows(pq.read_table(tmp_path / "train" / "00000.parquet"))[2]
    content = row["audio"] if audio == "flac" else (tmp_path / row["audio_path"]).read_bytes()
    assert (row["audio"] == b"") == (audio == "path")
    samples, rate = decode_flac(content)
    assert rate == 16000 and len(samples) == row["length"] * 256
    np.testing.assert_allclose(samples, SOURCE.clip(2).record.audio[: len(samples)], atol=2**-15)


def test_sums_of_a_shard_are_those_of_its_rows(tmp_path: Path) -> None:
    result = ShardMaker(SOURCE)(unit(tmp_path))
    rows = table_rows(pq.read_table(tmp_path / "train" / "00000.parquet"))
    motion = MotionSums.of(np.concatenate([row["motion"] for row in rows])).stats()
    stats = MotionSums.from_dict(result["motion_sums"]).stats()
    np.testing.assert_allclose(stats.centre, motion.centre, rtol=1e-9)
    assert stats.scale == pytest.approx(motion.scale, rel=1e-9)
    mel = np.concatenate([row["mel"].reshape(-1) for row in rows]).astype(np.float64)
    assert MelSums(**result["mel_sums"]).mean_std() == pytest.approx((mel.mean(), mel.std()), rel=1e-9)
    np.testing.assert_allclose(
        stats.denormalise(stats.normalise(rows[0]["motion"])), rows[0]["motion"], rtol=1e-4
    )


def test_mel_sums_of_nothing() -> None:
    assert MelSums().mean_std() == (0.0, 1.0)


def test_a_finished_unit_is_not_made_again_and_a_unit_without_its_parquet_is(tmp_path: Path) -> None:
    loads: list[str] = []

    class Counting(Synthetic):
        def load(self, ref: ClipRef) -> object:  # type: ignore[override]
            loads.append(ref.clip_id)
            return super().load(ref)

    make = ShardMaker(Counting(n_clips=7, clip_s=1.5))
    first = make(unit(tmp_path))
    assert make(unit(tmp_path)) == first and len(loads) == 7
    content = (tmp_path / "train" / "00000.parquet").read_bytes()
    (tmp_path / "train" / "00000.parquet").unlink()
    assert make(unit(tmp_path)) == first and len(loads) == 14
    assert (tmp_path / "train" / "00000.parquet").read_bytes() == content


@pytest.mark.parametrize("torn", ["", "[1]", '{"plan": "pl'])
def test_a_unit_with_a_torn_file_is_made_again(tmp_path: Path, torn: str) -> None:
    part = unit(tmp_path)
    result = ShardMaker(SOURCE)(part)
    shard, side = tmp_path / "train" / "00000.parquet", tmp_path / "train" / "00000.json"
    assert finished(part) == result
    shard.write_bytes(shard.read_bytes()[:-9])
    assert finished(part) is None
    assert ShardMaker(SOURCE)(part) == result == finished(part)
    side.write_text(torn)
    assert finished(part) is None
    assert ShardMaker(SOURCE)(part) == json.loads(side.read_text())


class Failing(Synthetic):
    """A source whose third clip fails with what the system says."""

    error: BaseException

    def load(self, ref: ClipRef) -> Record:
        if ref.locator["index"] == "2":
            raise self.error
        return super().load(ref)


def test_a_full_disk_is_no_fault_of_the_clip(tmp_path: Path) -> None:
    source = Failing(n_clips=7, clip_s=1.5)
    for error, expected in (
        (OSError(errno.ENOSPC, "No space left on device"), DataError),
        (MemoryError(), MemoryError),
    ):
        source.error = error
        with pytest.raises(expected):
            ShardMaker(source)(unit(tmp_path))
        assert not list(tmp_path.glob("train/*"))
    source.error = OSError(errno.EIO, "a damaged file")
    assert len(ShardMaker(source)(unit(tmp_path))["rejects"]) == 1
