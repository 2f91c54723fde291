"""Records and rows: cutting, and parquet that gives back what went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from momu_dist.data.record import SCHEMA, Record, Row, cut, decode_row, rows_to_table, table_rows

RNG = np.random.default_rng(0)


def make_row(clip_id: str, length: int) -> Row:
    def some(*shape: int) -> np.ndarray:
        return RNG.standard_normal(shape).astype(np.float32)

    return Row(
        clip_id, "g", some(length, 14, 2), some(length, 14), some(80, length), some(length),
        some(3), some(0), b"flac", "", 30.0,
    )  # fmt: skip


def test_rows_of_unlike_length_come_back_from_parquet_bit_for_bit(tmp_path: Path) -> None:
    rows = [make_row("a", 8), make_row("b", 12)]
    pq.write_table(rows_to_table(rows), tmp_path / "x.parquet")
    for row, back in zip(rows, table_rows(pq.read_table(tmp_path / "x.parquet")), strict=True):
        for name in ("motion", "conf", "mel", "amplitude", "onsets_s", "beats_s"):
            assert back[name].dtype == np.float32
            np.testing.assert_array_equal(back[name], getattr(row, name))
        assert (back["clip_id"], back["length"], back["fps"]) == (row.clip_id, row.length, 30.0)
        assert back["audio"] == b"flac"


def test_decoding_does_not_copy_arrow_memory() -> None:
    table = rows_to_table([make_row("a", 8)])
    first, second = table_rows(table)[0], table_rows(table)[0]
    assert np.shares_memory(first["mel"], second["mel"])


def test_numpy_rows_as_ray_data_gives_them_decode_alike() -> None:
    row = make_row("a", 6)
    back = decode_row({"mel": row.mel.reshape(-1), "motion": row.motion.reshape(-1).tolist(), "length": 6})
    np.testing.assert_array_equal(back["mel"], row.mel)
    np.testing.assert_array_equal(back["motion"], row.motion)


def test_no_rows_make_an_empty_table_of_the_schema() -> None:
    table = rows_to_table([])
    assert table.num_rows == 0
    assert table.schema.equals(SCHEMA)


def test_schema_has_plain_types_only_and_says_shape_and_unit() -> None:
    plain = {pa.string(), pa.binary(), pa.float32(), pa.int32(), pa.list_(pa.float32())}
    assert all(field.type in plain for field in SCHEMA)
    assert SCHEMA.field("mel").metadata[b"rate"] == b"62.5 Hz"


@pytest.mark.parametrize(("start_s", "end_s"), [(1.0, 3.0), (1.013, None), (0.0, 10.0)])
def test_cut_keeps_motion_audio_and_beats_together(start_s: float, end_s: float | None) -> None:
    fps, n = 25.0, 100
    motion = np.zeros((n, 14, 2))
    motion[:, 0, 0] = np.arange(n) / fps
    audio = (np.arange(4 * 16000) / 16000).astype(np.float32)
    record = Record("a", "g", motion, np.ones((n, 14)), fps, audio, np.arange(0.0, 4.0, 0.5))
    part = cut(record, start_s, end_s, "a_w000")
    from_s = float(part.motion_px[0, 0, 0])
    assert abs(from_s - start_s) <= 0.5 / fps
    assert part.audio[0] == pytest.approx(from_s, abs=1e-4)
    assert part.beats_s is not None
    np.testing.assert_allclose((part.beats_s + from_s) % 0.5, 0, atol=1e-9)
    until_s = min(4.0, 4.0 if end_s is None else from_s + end_s - start_s)
    assert len(part.audio) == pytest.approx((until_s - from_s) * 16000, abs=1)
    assert len(part.motion_px) == pytest.approx((until_s - from_s) * fps, abs=1)
    if end_s is not None and end_s <= 4:
        assert len(part.motion_px) / fps >= end_s - start_s - 1e-6
    assert (part.beats_s >= 0).all() and (part.beats_s < until_s - from_s).all()
