"""A run keeps the weights that it began with: what happens to those that were named is nothing to it any more."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.errors import CheckpointError, ConfigError
from momu_dist.inference.export import find_export, write_export
from momu_dist.inference.models import load_vae
from momu_dist.train.build import MakeEncoder, motion_stats, required_exports
from momu_dist.train.folder import RunFolder
from momu_dist.train.inputs import keep_inputs
from momu_dist.train.run import train

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def runs(tiny_runs: Path, tmp_path: Path) -> Path:
    """Runs of both VAEs that go on training, as `train_on` has it."""
    for name in ("music_vae", "motion_vae"):
        shutil.copytree(tiny_runs / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture
def config_of(tiny_config: MakeConfig, tmp_path: Path, prepared: Manifest, runs: Path) -> MakeConfig:
    return lambda stage, *more: tiny_config(stage, tmp_path / "out", prepared.root, runs, more)


def train_on(run: Path) -> str:
    """Replace the export of a run as its next checkpoint does; return the hash of the new weights."""
    export = find_export(run)
    state = {name: value + 0.01 for name, value in load_vae(export).state_dict().items()}
    facts = {key: value for key, value in export.facts.items() if key != "sha256"}
    write_export(run / "export", resolved_dict(export.config), state, facts, {})
    return find_export(run).sha256


@pytest.mark.parametrize("shares", [True, False])
def test_a_run_goes_on_with_what_it_began_with_while_its_inputs_train_on(
    config_of: MakeConfig, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:  # fmt: skip
    if not shares:

        def refuse(*_: object) -> None:
            raise OSError("another file system")

        monkeypatch.setattr(os, "link", refuse)
    began = {name: find_export(runs / name).sha256 for name in ("music_vae", "motion_vae")}
    folder = train(config_of("dit_a2m"))
    assert (folder / "inputs/music_vae/model.json").stat().st_nlink > 1 or not shares
    trained_on = {name: train_on(runs / name) for name in began}
    assert not set(trained_on.values()) & set(began.values())
    capsys.readouterr()
    train(config_of("dit_a2m", "train.max_steps=4"))
    said = capsys.readouterr().out
    for name, sha256 in began.items():
        assert find_export(folder / "export" / name).sha256 == sha256
        assert load_vae(find_export(folder / "export" / name))
        assert f"inputs.{name}: {runs / name} has been replaced since dit_a2m began" in said
    assert RunFolder(config_of("dit_a2m")).named_inputs()["music_vae"] == str(runs / "music_vae")
    shutil.rmtree(runs)
    train(config_of("dit_a2m", "train.max_steps=5"))


def test_an_initial_export_may_train_on(config_of: MakeConfig, runs: Path) -> None:
    more = (f"inputs.init_from={runs / 'music_vae' / 'export'}", "name=second")
    train(config_of("music_vae", *more))
    train_on(runs / "music_vae")
    train(config_of("music_vae", *more, "train.max_steps=3"))


def test_other_weights_at_another_place_are_refused_the_same_are_not(
    config_of: MakeConfig, runs: Path
) -> None:
    folder = train(config_of("motion_vae"))
    shutil.copytree(runs / "music_vae", runs / "copy")
    train_on(runs / "music_vae")
    with pytest.raises(ConfigError, match="holds a run with another music_vae;"):
        train(
            config_of("motion_vae", "train.max_steps=3", f"inputs.music_vae={runs / 'music_vae' / 'export'}")
        )
    train(config_of("motion_vae", "train.max_steps=3", f"inputs.music_vae={runs / 'copy'}"))
    assert not [path for path in (folder / "inputs").iterdir() if path.name != "music_vae"]


def test_what_was_replaced_or_damaged_while_a_run_begins_is_not_kept(
    config_of: MakeConfig, runs: Path
) -> None:
    config = config_of("motion_vae")
    folder = RunFolder(config)
    folder.path.mkdir(parents=True)
    origin = {"data": "d", "music_vae": find_export(runs / "music_vae").sha256}
    weights = runs / "music_vae" / "export" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="run the same command again"):
        keep_inputs(config, folder, origin)
    weights.write_bytes(whole)
    kept = keep_inputs(config, folder, origin)
    assert kept.inputs.music_vae == str(folder.inputs / "music_vae")
    shutil.rmtree(folder.inputs)
    train_on(runs / "music_vae")
    with pytest.raises(CheckpointError, match="was replaced just now"):
        keep_inputs(config, folder, origin)


def test_latents_are_made_by_the_weights_that_they_are_named_after_or_not_at_all(
    config_of: MakeConfig, prepared: Manifest, runs: Path
) -> None:
    exports = required_exports(config_of("dit_a2m"), prepared)
    make = pickle.loads(pickle.dumps(MakeEncoder(exports, motion_stats(prepared, exports), "cpu")))
    make()
    train_on(runs / "music_vae")
    with pytest.raises(CheckpointError, match="does not have the hash"):
        make()
