"""What a node does with a job whose launcher does not answer; programs of SLURM are scripts."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from momu_dist.launch import orphan
from momu_dist.launch.orphan import see_to_job


class Controller:
    """A controller that is a folder of answers, for `scontrol` and `scancel` that are scripts; what they are told is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = f'#!/bin/bash\ncd {folder}\necho "${{0##*/}} $*" >> told\n'
        for name, rest in (("scontrol", 'eval "$(cat answers)"\n'), ("scancel", "")):
            (folder / name).write_text(script + rest)
            (folder / name).chmod(0o755)
        (folder / "told").touch()

    def says(
        self, job: str = "JobState=RUNNING", nodes: str = "n1 n2", head: str = "ALLOCATED", requeue: str = ""
    ) -> None:
        """From now on. `job`, `nodes`, `head` (the state of n1); what `requeue` does."""
        (self.folder / "answers").write_text(
            f"""case "$*" in
"show job"*) echo "JobId=7 {job} NodeList=some";;
"show hostnames"*) printf '%s\n' {nodes};;
"show node"*) echo "NodeName=n1 State={head} NextState=DOWN";;
requeue*) {requeue or "true"};;
esac
"""
        )

    def is_silent(self) -> None:
        (self.folder / "answers").write_text("echo 'Unable to contact slurm controller' >&2; exit 1\n")

    @property
    def told(self) -> list[str]:
        """What it was told to do, besides answering."""
        lines = (self.folder / "told").read_text().splitlines()
        return [line for line in lines if not line.startswith("scontrol show")]


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(orphan, "ASK_S", 0.05)
    monkeypatch.setattr(orphan, "ORPHAN_S", 1.0)
    return Controller(tmp_path)


def see(answered: threading.Event | None = None) -> None:
    """As a node does that is not the first one, n1."""
    see_to_job("7", 1, "n1", answered or threading.Event(), print)


RUNNING = "JobState=RUNNING Requeue=1 Restarts=1"


@pytest.mark.parametrize("head", ["ALLOCATED", "MIXED+DRAIN", "IDLE+CLOUD+POWERING_DOWN"])
def test_a_node_that_is_only_cut_off_leaves_the_job_alone(controller: Controller, head: str) -> None:
    controller.says(RUNNING, head=head)
    see()
    assert controller.told == []


def test_a_controller_that_is_silent_is_asked_until_the_end_and_cancels_nothing(
    controller: Controller,
) -> None:
    controller.is_silent()
    see()
    assert controller.told == []


@pytest.mark.parametrize(
    "gone",
    [{"head": "ALLOCATED*"}, {"head": "DOWN*+DRAIN"}, {"head": "IDLE+NOT_RESPONDING"}, {"nodes": "n2"}],
    ids=str,
)
def test_the_loss_of_the_first_node_is_waited_for_and_requeues_the_job(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, gone: dict[str, str]
) -> None:
    monkeypatch.setattr(orphan, "ORPHAN_S", 20.0)
    controller.is_silent()
    waiting = threading.Thread(target=see)
    waiting.start()
    time.sleep(0.3)
    controller.says(RUNNING)
    time.sleep(0.3)
    assert controller.told == []
    controller.says(RUNNING, **gone)
    waiting.join(10)
    assert controller.told == ["scontrol requeue 7"]


def test_a_job_that_cannot_be_requeued_yet_is_not_cancelled(controller: Controller) -> None:
    controller.says(RUNNING, head="DOWN", requeue="echo slow >&2; exit 1")
    see()
    assert set(controller.told) == {"scontrol requeue 7"} and len(controller.told) > 1


def test_a_job_that_may_not_be_requeued_is_cancelled(controller: Controller) -> None:
    controller.says("JobState=RUNNING Requeue=0 Restarts=1", head="DOWN")
    see()
    assert controller.told == ["scancel 7"]


@pytest.mark.parametrize("job", ["JobState=RUNNING Requeue=1 Restarts=2", "JobState=COMPLETING Restarts=1"])
def test_a_job_that_has_begun_anew_or_ends_is_left_alone(controller: Controller, job: str) -> None:
    controller.says(job, head="DOWN")
    see()
    assert controller.told == []


def test_a_launcher_that_answers_late_keeps_its_job(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had waited for a disk."""
    monkeypatch.setattr(orphan, "ASK_S", 20.0)
    monkeypatch.setattr(orphan, "ORPHAN_S", 20.0)
    controller.says(RUNNING)
    answered = threading.Event()
    threading.Timer(0.5, answered.set).start()
    began = time.monotonic()
    see(answered)
    assert time.monotonic() - began < 10 and controller.told == []
