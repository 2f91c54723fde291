"""The last export and the best one of a run, and what is kept of the best for others."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from momu_dist.config.schema import RunConfig
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.data.hashes import folder_sha256
from momu_dist.data.manifest import Manifest
from momu_dist.inference.export import find_export
from momu_dist.inference.models import load_vae
from momu_dist.tracking.null_tracker import NullTracker
from momu_dist.train.checkpoint import Checkpoint
from momu_dist.train.exports import Exports, register_best
from momu_dist.train.folder import RunFolder

TinyConfig = Callable[..., RunConfig]
FACTS = {"feature_fingerprint": "ff", "data_fingerprint": "dd"}


class Registry(NullTracker):
    """Keeps what it is told to register."""

    def __init__(self) -> None:
        self.models: list[tuple[str, Path, dict[str, str]]] = []

    def model(self, name: str, export: str | Path, tags: object) -> None:
        self.models.append((name, Path(export), dict(tags)))  # type: ignore[call-overload]


@pytest.fixture
def config(tiny_config: TinyConfig, tmp_path: Path, prepared: Manifest) -> RunConfig:
    return tiny_config("music_vae", tmp_path, prepared.root)


@pytest.fixture
def folder(config: RunConfig) -> RunFolder:
    made = RunFolder(config)
    made.open(config, {})
    return made


def weights(config: RunConfig, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return Autoencoder(config.model).state_dict()


def exports(folder: RunFolder, config: RunConfig, total_steps: int = 0) -> Exports:
    made = Exports(folder, config, FACTS, {}, total_steps)
    made.restore()
    return made


def write(to: Exports, step: int, value: float | None) -> None:
    """As the loop does at a checkpoint."""
    validated = {} if value is None else {"val/rec": value, "val/kl": -step}
    checkpoint = to.folder.checkpoints / f"step-{step}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    to.write(step, weights(to.config, step), validated, checkpoint)
    to.committed(Checkpoint(checkpoint, {"step": step, "validation": to.judge(step, validated)}))


def step_of(path: Path) -> int:
    return int(find_export(path).facts["step"])


def test_the_best_is_the_lowest_validation_value_and_the_export_is_the_last(
    folder: RunFolder, config: RunConfig
) -> None:
    run = exports(folder, config)
    for step, value in enumerate((0.5, 0.2, 0.2, None, math.nan, math.inf, 0.3), start=1):
        write(run, step, value)
    assert (step_of(folder.export), step_of(folder.best)) == (7, 2)
    assert find_export(folder.best).facts["validation"] == 0.2
    kept, written = load_vae(find_export(folder.best)).state_dict(), weights(config, 2)
    assert all(torch.equal(kept[name], value) for name, value in written.items())
    assert sorted(path.name for path in folder.path.glob("*") if path.is_dir()) == [
        "best",
        "checkpoints",
        "export",
    ]


def test_nothing_from_before_the_gan_is_the_best(folder: RunFolder, config: RunConfig) -> None:
    run = exports(folder, config, total_steps=round(2 / config.loss.gan_start))
    for step, value in enumerate((0.1, 0.1, 0.5, 0.3), start=1):
        write(run, step, value)
    assert step_of(folder.best) == 4


def test_a_restart_goes_on_with_the_best_so_far(folder: RunFolder, config: RunConfig) -> None:
    write(exports(folder, config), 1, 0.2)
    write(exports(folder, config), 2, 0.3)
    assert step_of(folder.best) == 1
    write(exports(folder, config), 3, 0.1)
    assert step_of(folder.best) == 3


def test_a_best_that_a_kill_took_away_comes_back(folder: RunFolder, config: RunConfig) -> None:
    write(exports(folder, config), 1, 0.2)
    for path in (folder.best, folder.export):
        path.rename(path.with_name(f".{path.name}-old"))
    write(exports(folder, config), 2, 0.3)
    assert (step_of(folder.export), step_of(folder.best)) == (2, 1)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_damaged_best_is_told_of_and_made_again(folder: RunFolder, config: RunConfig, file: str) -> None:
    write(exports(folder, config), 1, 0.2)
    damaged = (folder.best / file).read_bytes()[:-1]
    (folder.best / file).unlink()  # its data is shared with the checkpoint's
    (folder.best / file).write_bytes(damaged)
    run = exports(folder, config)
    assert "the best model so far cannot be used" in folder.events.read_text() and not folder.best.exists()
    write(run, 2, 0.3)
    assert step_of(folder.best) == 2


def test_what_is_registered_stays_as_it_is_when_the_run_goes_on(folder: RunFolder, config: RunConfig) -> None:
    registry, run = Registry(), exports(folder, config)
    write(run, 1, 0.2)
    write(run, 2, 0.3)
    register_best(config, folder, registry)
    write(run, 3, 0.1)
    register_best(config, folder, registry)
    (name, first, tags), (_, second, _) = registry.models
    assert name == "momu-music_vae"
    assert (step_of(first), step_of(second)) == (1, 3)
    assert tags == {
        "momu.stage": "music_vae",
        "momu.step": "1",
        "momu.validation": "rec=0.2",
        "momu.data_fingerprint": "dd",
        "momu.sha256": find_export(first).sha256,
        "momu.export_sha256": folder_sha256(first),
    }


def test_a_run_without_validation_registers_its_last_export(folder: RunFolder, config: RunConfig) -> None:
    registry, run = Registry(), exports(folder, config)
    write(run, 1, None)
    write(run, 2, None)
    register_best(config, folder, registry)
    assert [step_of(export) for _, export, _ in registry.models] == [2]


def test_what_cannot_be_registered_is_a_warning(
    folder: RunFolder, config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry()
    write(exports(folder, config), 1, 0.2)
    folder.registered.write_text("not a folder")
    register_best(config, folder, registry)
    assert registry.models == []
    assert "was not registered" in caplog.text
