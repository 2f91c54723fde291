"""Latents are encoded once, kept with what made them, and never mixed with others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from momu_dist.core.latents import LatentSums
from momu_dist.data.feed import FeedSpec, LocalFeed
from momu_dist.data.latents import (
    MODALITIES,
    ClipEncoder,
    LatentManifest,
    encode_latents,
    in_process,
    latent_fingerprint,
    open_latents,
)
from momu_dist.data.manifest import Manifest
from momu_dist.data.record import LATENT_ARRAYS, table_rows
from momu_dist.errors import DataError

WEIGHTS = {"music_vae": "aa", "motion_vae": "bb"}


class Counter:
    """Makes encoders that halve time by averaging; counts the clips they encoded."""

    def __init__(self) -> None:
        self.clips = 0

    def __call__(self) -> ClipEncoder:
        def encode(mel: np.ndarray, motion_px: np.ndarray) -> dict[str, np.ndarray]:
            self.clips += 1
            assert mel.shape == (80, len(motion_px)) and motion_px.shape[1:] == (14, 2)
            music = mel[:3].reshape(3, -1, 2).mean(2).T
            motion = motion_px[:, :3, 0].reshape(-1, 2, 3).mean(1) / 100
            flat = np.full_like(music, -2.0)
            return dict(zip(LATENT_ARRAYS, (music, flat, motion, flat - 1), strict=True))

        return encode


@pytest.fixture
def data(prepared: Manifest, tmp_path: Path) -> Manifest:
    shutil.copytree(prepared.root, tmp_path / "data")
    return Manifest.load(tmp_path / "data")


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def encode(data: Manifest, counter: Counter) -> Callable[[Path, str], None]:
    return lambda root, fingerprint: encode_latents(data, root, fingerprint, counter, in_process)


def spec_of(root: Path, columns: tuple[str, ...], longest: int = 64) -> FeedSpec:
    return FeedSpec(
        root=str(root),
        columns=columns,
        seed=5,
        global_batch=4,
        shuffle_row_groups=2,
        longest=longest,
        length_buckets=4,
        validation_clips=64,
    )


def clips_of(data: Manifest) -> int:
    return int(data.clips.num_rows)


def all_rows(root: Path) -> dict[str, Any]:
    paths = sorted(root.glob("*/*.parquet"))
    return {row["clip_id"]: row for path in paths for row in table_rows(pq.read_table(path))}


def test_every_clip_is_encoded_once_and_kept(data: Manifest, encode: Any, counter: Counter) -> None:
    first = open_latents(data, WEIGHTS, None, encode)
    assert counter.clips == clips_of(data)
    assert first.root == data.root / "latents" / first.fingerprint
    again = open_latents(data, WEIGHTS, None, encode)
    assert counter.clips == clips_of(data) and again.fingerprint == first.fingerprint


def test_latents_are_what_the_encoder_gave(data: Manifest, encode: Any) -> None:
    rows = all_rows(open_latents(data, WEIGHTS, None, encode).root)
    clips = all_rows_of_data(data)
    assert rows.keys() == clips.keys()
    for clip_id, row in rows.items():
        expected = Counter()()(clips[clip_id]["mel"], clips[clip_id]["motion"])
        assert row["length"] == clips[clip_id]["length"] // 2
        for name in LATENT_ARRAYS:
            np.testing.assert_allclose(row[name], expected[name], rtol=1e-6)


def all_rows_of_data(data: Manifest) -> dict[str, Any]:
    files = [data.root / shard["file"] for shard in data.content["shards"]]
    return {row["clip_id"]: row for path in files for row in table_rows(pq.read_table(path))}


def test_statistics_are_those_of_the_training_latents(data: Manifest, encode: Any) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    training = set(data.split("train")["clip_id"].to_pylist())
    rows = [row for clip_id, row in all_rows(latents.root).items() if clip_id in training]
    for modality in MODALITIES:
        mean = np.concatenate([row[f"{modality}_mean"] for row in rows]).astype(np.float64)
        logvar = np.concatenate([row[f"{modality}_logvar"] for row in rows]).astype(np.float64)
        second = (mean**2 + np.exp(logvar)).mean(0)
        scale = latents.scales("channel")[modality]
        np.testing.assert_allclose(scale.shift, mean.mean(0), rtol=1e-9)
        np.testing.assert_allclose(scale.scale, np.sqrt(second - mean.mean(0) ** 2), rtol=1e-6)
        direct = LatentSums.of(mean, logvar)
        assert latents.scales("scalar")[modality].scale == pytest.approx(direct.scale("scalar").scale)


def test_the_feed_reads_latents_in_the_order_of_the_clips(data: Manifest, encode: Any) -> None:
    """Shards and row groups are those of the data, so the plan of the same seed is the same."""
    latents = open_latents(data, WEIGHTS, None, encode)
    feeds = [
        LocalFeed(spec_of(root, columns, longest))
        for root, columns, longest in ((data.root, ("mel",), 128), (latents.root, LATENT_ARRAYS, 64))
    ]
    clips, encoded = ([[row["clip_id"] for row in rows] for rows in feed.steps(0, 4)] for feed in feeds)
    assert clips == encoded and feeds[0].plan_fingerprint == feeds[1].plan_fingerprint
    rows = feeds[1].validation()
    assert rows and all(row["music_mean"].shape == (row["length"], 3) for row in rows)


def test_other_weights_get_another_folder(data: Manifest, encode: Any, counter: Counter) -> None:
    first = open_latents(data, WEIGHTS, None, encode)
    other = open_latents(data, {**WEIGHTS, "motion_vae": "cc"}, None, encode)
    assert other.root != first.root and counter.clips == 2 * clips_of(data)


def test_fingerprint_depends_on_weights_and_data(data: Manifest, prepared: Manifest) -> None:
    mine = latent_fingerprint(data, WEIGHTS)
    assert mine == latent_fingerprint(prepared, dict(reversed(WEIGHTS.items())))
    swapped = {"music_vae": "bb", "motion_vae": "aa"}
    assert len({mine, latent_fingerprint(data, swapped)}) == 2
    changed = Manifest(data.root, {**data.content, "source_options": {"seed": 1}})
    assert latent_fingerprint(changed, WEIGHTS) != mine


def test_a_named_folder_of_other_weights_is_refused_and_kept(
    data: Manifest, encode: Any, counter: Counter, tmp_path: Path
) -> None:
    folder = tmp_path / "latents"
    open_latents(data, WEIGHTS, str(folder), encode)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="were made by other weights or from other data") as caught:
        open_latents(data, {**WEIGHTS, "music_vae": "cc"}, str(folder), encode)
    assert str(folder) in str(caught.value) and "data.latents" in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert counter.clips == clips_of(data)


def test_an_interrupted_encoding_goes_on(data: Manifest, encode: Any, counter: Counter) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    (latents.root / "latents.json").unlink()
    (latents.root / "val" / "00000.json").unlink()
    counter.clips = 0
    again = open_latents(data, WEIGHTS, None, encode)
    assert counter.clips == data.split("val").num_rows
    assert again.scales("channel") == latents.scales("channel")


def test_finished_shards_of_other_weights_are_made_again(
    data: Manifest, encode: Any, counter: Counter, tmp_path: Path
) -> None:
    folder = tmp_path / "latents"
    open_latents(data, WEIGHTS, str(folder), encode)
    (folder / "latents.json").unlink()  # what a killed encoding leaves: shards, but no manifest
    counter.clips = 0
    open_latents(data, {**WEIGHTS, "music_vae": "cc"}, str(folder), encode)
    assert counter.clips == clips_of(data)


def test_a_torn_note_counts_as_not_done(data: Manifest, encode: Any, counter: Counter) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    (latents.root / "latents.json").unlink()
    note = latents.root / "test" / "00000.json"
    note.write_text(note.read_text()[:20])
    counter.clips = 0
    open_latents(data, WEIGHTS, None, encode)
    assert counter.clips == data.split("test").num_rows


def test_a_torn_manifest_is_one_sentence(data: Manifest, encode: Any) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    path = latents.root / "latents.json"
    path.write_text(path.read_text()[:30])
    with pytest.raises(DataError, match=r"latents\.json"):
        LatentManifest.load(latents.root)


@pytest.mark.parametrize("name", ["train/00000.parquet", "val/00000.parquet", "index.parquet"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-50]), Path.unlink])
def test_what_is_cut_or_gone_is_encoded_again_and_said(
    data: Manifest, encode: Any, counter: Counter, name: str, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    rows = all_rows(latents.root)
    counter.clips = 0
    damage(latents.root / name)
    again = open_latents(data, WEIGHTS, None, encode)
    assert name in caplog.text and "encoded again" in caplog.text
    assert counter.clips < clips_of(data) and again.scales("channel") == latents.scales("channel")
    assert all_rows(again.root).keys() == rows.keys() and not again.damaged(data)
    assert LocalFeed(spec_of(again.root, LATENT_ARRAYS)).validation()


def test_the_advice_for_a_torn_latents_json_works(data: Manifest, encode: Any, counter: Counter) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    (latents.root / "latents.json").write_text("[1")
    shard = latents.root / "val" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DataError, match=r"delete it and start the run again"):
        open_latents(data, WEIGHTS, None, encode)
    (latents.root / "latents.json").unlink()
    counter.clips = 0
    again = open_latents(data, WEIGHTS, None, encode)
    assert counter.clips == data.split("val").num_rows and not again.damaged(data)


def test_a_flipped_bit_is_noticed_and_the_advice_works(data: Manifest, encode: Any) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    shard = latents.root / "val" / "00000.parquet"
    flip_a_bit(shard)
    spec = spec_of(latents.root, LATENT_ARRAYS)
    with pytest.raises(DataError, match=f"delete {shard} and start the run again"):
        LocalFeed(spec).validation()
    shard.unlink()
    open_latents(data, WEIGHTS, None, encode)
    assert LocalFeed(spec).validation()


def flip_a_bit(shard: Path) -> None:
    """In the middle of the values of the first row group's last column."""
    row_group = pq.ParquetFile(shard).metadata.row_group(0)
    column = row_group.column(row_group.num_columns - 1)
    content = bytearray(shard.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 4
    shard.write_bytes(content)


def test_no_latents_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no latents at"):
        LatentManifest.load(tmp_path)


def test_the_notes_are_json(data: Manifest, encode: Any) -> None:
    latents = open_latents(data, WEIGHTS, None, encode)
    tree = json.loads((latents.root / "latents.json").read_text())
    assert tree["fingerprint"] == latents.fingerprint == latent_fingerprint(data, WEIGHTS)
    assert not list(latents.root.rglob("*writing*"))


def test_a_torn_data_shard_is_one_sentence(data: Manifest, encode: Any) -> None:
    shard = data.root / data.content["shards"][0]["file"]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"torn shard {shard}"):
        open_latents(data, WEIGHTS, None, encode)
