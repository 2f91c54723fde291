"""What a user sees when a prepared folder is not there, not whole, or not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from momu_dist.data.features import feature_fingerprint
from momu_dist.data.index import load_index
from momu_dist.data.manifest import Manifest
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.errors import DataError


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    prepare(Synthetic(n_clips=5, clip_s=1.0), tmp_path / "data", PrepareOptions(), progress=False)
    return tmp_path / "data"


def test_a_prepared_folder_loads(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    assert manifest.clips.num_rows == 5
    assert {name: manifest.split(name).num_rows for name in ("train", "val", "test")} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }
    assert manifest.motion_stats.scale > 0
    with pytest.raises(DataError, match="train, val, test"):
        manifest.split("valid")


def test_an_empty_folder_names_the_command_that_fills_it(tmp_path: Path) -> None:
    for load in (Manifest.load, load_index):
        with pytest.raises(
            DataError, match=rf"no prepared data at {tmp_path}.*correct the path.*momu prepare"
        ):
            load(tmp_path)


def change(prepared: Path, **values: object) -> None:
    path = prepared / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_other_features_are_refused(prepared: Path) -> None:
    change(prepared, feature_fingerprint="0123456789abcdef")
    with pytest.raises(DataError, match="made with other features .0123456789abcdef.*prepare again"):
        Manifest.load(prepared)


def test_features_chosen_by_the_recipe_are_not_refused(tmp_path: Path) -> None:
    options = PrepareOptions(amplitude_bins=12, amplitude_angle="atan")
    made = prepare(Synthetic(n_clips=2, clip_s=2.0), tmp_path, options, progress=False)
    assert made.content["features"]["amplitude"]["bins"] == 12
    assert made.feature_fingerprint == Manifest.load(tmp_path).feature_fingerprint != feature_fingerprint()


def test_another_version_is_refused(prepared: Path) -> None:
    change(prepared, version=99)
    with pytest.raises(DataError, match="version 99, expected 2"):
        Manifest.load(prepared)


def test_a_torn_manifest_is_refused(prepared: Path) -> None:
    path = prepared / "manifest.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="is not a manifest"):
        Manifest.load(prepared)


def test_a_lost_shard_is_noticed(prepared: Path) -> None:
    (prepared / "train" / "00000.parquet").unlink()
    with pytest.raises(DataError, match="lacks 1 of its shards, such as train/00000.parquet"):
        Manifest.load(prepared)


def test_a_torn_index_is_a_sentence(prepared: Path) -> None:
    (prepared / "index.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="index.parquet cannot be read"):
        load_index(prepared)


def test_the_fingerprint_tells_data_apart_and_not_folders(tmp_path: Path) -> None:
    def of(name: str, seed: int) -> str:
        source = Synthetic(n_clips=4, clip_s=1.0, seed=seed)
        return prepare(source, tmp_path / name, progress=False).fingerprint

    assert of("a", 0) == of("b", 0) != of("c", 1)


def test_a_torn_shard_is_refused(prepared: Path) -> None:
    shard = prepared / "train" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"torn shard {shard}"):
        Manifest.load(prepared)


def again(prepared: Path) -> Manifest:
    """What the sentences advise: the same preparation once more."""
    return prepare(Synthetic(n_clips=5, clip_s=1.0), prepared, PrepareOptions(), progress=False)


@pytest.mark.parametrize("name", ["index.parquet", "train/00000.parquet"])
def test_a_file_that_is_gone_comes_back_with_the_same_command(prepared: Path, name: str) -> None:
    fingerprint = Manifest.load(prepared).fingerprint
    (prepared / name).unlink()
    with pytest.raises(DataError, match=f"{name}.*run the same `momu prepare` command again"):
        Manifest.load(prepared)
    again(prepared)
    assert Manifest.load(prepared).fingerprint == fingerprint


def test_an_index_that_is_another_table_is_one_sentence_whose_advice_works(prepared: Path) -> None:
    path = prepared / "index.parquet"
    pq.write_table(pa.table({"clip": ["a"]}), path)
    with pytest.raises(
        DataError, match=f"another table .columns clip.*clip_id.*delete {path} and run the same"
    ):
        load_index(prepared)
    path.unlink()
    again(prepared)
    assert load_index(prepared).num_rows == 5


def test_a_manifest_without_its_shards_is_one_sentence(prepared: Path) -> None:
    change(prepared, shards=[])
    with pytest.raises(DataError, match="names 0 shards with 0 clips, expected the 5 of its splits"):
        Manifest.load(prepared)


def test_shards_too_small_for_a_clip_are_refused_and_none_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard_mb is 1e-09, expected at least 0\.1 MB"):
        PrepareOptions(shard_mb=1e-9)
    source = Synthetic(n_clips=3, clip_s=2.0)
    made = prepare(source, tmp_path, PrepareOptions(shard_mb=0.1, fractions=(1, 0, 0)), progress=False)
    assert [shard["rows"] for shard in made.content["shards"]] == [1, 1, 1]
