"""What a worker says of a run's fate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from momu_dist.config.load import config_from_dict
from momu_dist.data.feed import FeedSpec, LocalFeed
from momu_dist.errors import MomuError, Stopped, Superseded, TrainingError
from momu_dist.train import worker
from momu_dist.train.folder import RunFolder
from momu_dist.train.loop import AgreedEnd


class Told:
    """A tracker that notes how the run was said to end."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def start(self, *_: Any) -> str:
        return "id"

    def finish(self, status: str = "FINISHED") -> None:
        self.ends.append(status)


@pytest.mark.parametrize(
    ("error", "ends", "failure"),
    [
        (None, ["FINISHED"], None),
        (TrainingError("bad loss."), ["FAILED"], "bad loss."),
        (Stopped("stopped."), ["KILLED"], None),
        (Superseded("another attempt."), [], None),
    ],
)
def test_how_a_run_ends_is_said_once_and_by_the_last_attempt(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: MomuError | None,
    ends: list[str],
    failure: str | None,
) -> None:
    config = config_from_dict(
        {"stage": "dit_a2m", "name": "run", "out": str(tmp_path), "tracking": {"uri": "none"}}, where="test"
    )
    folder, tracker = RunFolder(config), Told()
    folder.open(config, {})
    seen_at_end = []

    def train(*_: Any) -> None:
        seen_at_end.append(folder.finished())
        if error is not None:
            raise error

    monkeypatch.setattr(worker, "_train", train)
    monkeypatch.setattr(worker, "open_tracker", lambda *_: tracker)
    spec = FeedSpec("nowhere", (), 0, 1, 1, 1, 1, 0)
    if error is None:
        worker.run_worker(config, spec, LocalFeed, 4)
    else:
        with pytest.raises(type(error)):
            worker.run_worker(config, spec, LocalFeed, 4)
    assert tracker.ends == ends and folder.failure() == failure and seen_at_end == [None]
    finished = folder.finished()
    assert (finished is None) == (error is not None) and (finished is None or finished["steps"] == 4)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (TrainingError("bad loss."), "rank 1 on node2: bad loss."),
        (AgreedEnd("rank 0 on node1: bad loss."), "rank 0 on node1: bad loss."),
    ],
)
def test_the_worker_that_failed_and_its_machine_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: TrainingError, failure: str
) -> None:
    """What all workers raise alike names the one it comes from, whoever is the first to write it."""
    config = config_from_dict(
        {"stage": "dit_a2m", "name": "run", "out": str(tmp_path), "tracking": {"uri": "none"}}, where="test"
    )
    RunFolder(config).open(config, {})

    def run(*_: Any) -> None:
        raise error

    monkeypatch.setattr(worker, "_run", run)
    monkeypatch.setattr(worker, "worker_name", lambda: "rank 1 on node2")
    monkeypatch.setattr(worker, "world_size", lambda: 2)
    with pytest.raises(TrainingError, match=f"^{error}"):
        worker.run_worker(config, FeedSpec("nowhere", (), 0, 1, 1, 1, 1, 0), LocalFeed, 4)
    assert RunFolder(config).failure() == failure
