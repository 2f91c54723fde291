"""A start that is refused or stopped early, and a run folder that goes away: what is left of the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.errors import CheckpointError, ConfigError, DiskError, Stopped
from momu_dist.train import exports as exports_module
from momu_dist.train import run as run_module
from momu_dist.train.folder import RunFolder
from momu_dist.train.run import train
from momu_dist.train.store import ATTEMPT

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def config_of(tiny_config: Callable[..., RunConfig], tmp_path: Path, prepared: Manifest) -> MakeConfig:
    return lambda *more: tiny_config("music_vae", tmp_path, prepared.root, more=more)


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What every file holds and when it was written; locks hold nothing and are taken by every start."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_start_that_the_checkpoint_refuses_leaves_the_run_as_it_was(
    config_of: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(config_of())
    (folder / "failure.txt").write_text("what the attempt before said")
    for more, reason in (
        (("train.max_steps=4", "train.global_batch=8"), "another order of samples"),
        (("train.max_steps=4", "data.shuffle_row_groups=1", "train.log_every=7"), "another order of samples"),
        (("train.max_steps=1",), "has done 2 steps, this run ends at 1"),
    ):
        (folder / "finished.json").unlink(missing_ok=True)
        before = files_of(folder)
        with pytest.raises(CheckpointError, match=reason):
            train(config_of(*more))
        assert files_of(folder) == before
        assert ("goes on at step" in capsys.readouterr().out) == (more[0] == "train.max_steps=4")


@pytest.mark.parametrize(
    ("uri", "named", "tracked"),
    [
        ("auto", None, "auto"),
        ("auto", "http://login01:5000", "http://login01:5000"),
        ("auto", "sqlite:///runs/mlflow.db", "sqlite:///{here}/runs/mlflow.db"),
        ("auto", "http://me:secret@login01:5000", "http://***@login01:5000"),
        ("none", "http://login01:5000", "none"),
        ("sqlite:///own.db", "http://login01:5000", "sqlite:///{here}/own.db"),
    ],
)
def test_where_workers_track(
    uri: str, named: str | None, tracked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login they find in their own environment alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if named is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    assert run_module._tracked(uri) == tracked.format(here=tmp_path)


def test_a_run_that_goes_on_in_another_store_says_so(
    config_of: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def said(*more: str) -> list[str]:
        config = run_module._absolute(config_of(*more))
        return run_module._tracked_elsewhere(config, RunFolder(config))

    beside, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("mlflow", "other"))
    folder = RunFolder(config_of())
    folder.open(config_of("tracking.uri=none"), {})
    folder.keep_tracking_id("abc")
    assert said("tracking.uri=auto") == []  # it was tracked nowhere
    folder.open(config_of("tracking.uri=auto"), {})
    assert [said(f"tracking.uri={uri}") for uri in ("auto", "none", beside)] == [[], [], []]
    (text,) = said(f"tracking.uri={other}")
    assert f"was tracked at {beside} and goes on at {other}" in text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@login01:5000")
    (text,) = said("tracking.uri=auto")
    assert "goes on at http://***@login01:5000," in text
    folder.open(run_module._absolute(config_of("tracking.uri=auto")), {})
    assert said("tracking.uri=auto") == []


def test_a_variable_that_names_no_tracker_is_said_before_training(
    config_of: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(ConfigError, match="^MLFLOW_TRACKING_URI is a text of 6 characters"):
        train(config_of("tracking.uri=auto"))


def test_a_stop_of_this_start_holds_and_an_older_one_does_not(config_of: MakeConfig, tmp_path: Path) -> None:
    stop, given = tmp_path / "music_vae" / "stop", time.time() - 60
    stop.parent.mkdir()
    stop.touch()
    os.utime(stop, (given + 1, given + 1))
    with pytest.raises(Stopped, match="stopped as asked after step 0 of 2"):
        train(config_of(), since=given)
    train(config_of(), since=given + 2)
    assert not stop.exists() and RunFolder(config_of()).finished() is not None


def test_a_clock_of_the_disk_that_differs_changes_nothing(
    config_of: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(config_of())
    folder.path.mkdir()
    folder.request_stop("laid now")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)  # this machine's, an hour ahead of the disk's
    folder.withdraw_stop(before=now + 3600 - 60)
    assert folder.stop_requested()
    folder.withdraw_stop(before=now + 3600 + 60)
    assert not folder.stop_requested()


def test_a_killed_save_makes_room_before_anything_is_written(
    config_of: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(config_of())
    half = folder.checkpoints / ".writing-000000003-0123abcd"
    half.mkdir(parents=True)
    (half / "vae.pt").write_text("half")
    (folder.checkpoints / ATTEMPT).write_text("0123abcd")

    def full(*_: Any) -> None:
        raise DiskError("no room.")

    monkeypatch.setattr(RunFolder, "open", full)
    with folder.written_alone(), pytest.raises(DiskError):  # the worker of an attempt before lives on
        train(config_of())
    assert (half / "vae.pt").read_text() == "half" and (
        folder.checkpoints / ATTEMPT
    ).read_text() == "0123abcd"
    with pytest.raises(DiskError):
        train(config_of())
    assert not half.exists()
    assert (folder.checkpoints / ATTEMPT).read_text() != "0123abcd", "who wrote it finds itself followed"


@pytest.mark.parametrize("moment", ["before a log", "in a save", "before a preview"])
def test_a_run_folder_that_is_moved_away_is_missed_and_not_made_anew(
    config_of: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run, away = tmp_path / "music_vae", tmp_path / "away"
    owner, name = {
        "before a log": (RunFolder, "append_metrics"),
        "in a save": (exports_module, "write_export"),
        "before a preview": (RunFolder, "stop_requested"),
    }[moment]
    usual, calls = getattr(owner, name), []

    def moves(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            run.rename(away)
        return usual(*arguments)

    monkeypatch.setattr(owner, name, moves)
    with pytest.raises(DiskError, match=f"the run folder {run} is gone: it was moved or deleted"):
        train(config_of("train.max_steps=4", "train.sample_every=1"))
    assert not run.exists() and (away / "config.yaml").is_file()
