"""What a user sees when a prepared folder is not there, not whole, or not ours."""

from __future__ import annotations

import json
from pathlib import Path

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
        with pytest.raises(DataError, match=rf"no prepared data at {tmp_path}.*momu prepare --source"):
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
