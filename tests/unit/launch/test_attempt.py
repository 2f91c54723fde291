"""What keeps a job from its work, before its nodes are looked at; in this process, with a scontrol that is a script."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from momu_dist.errors import ConfigError, GivenUp, Stopped
from momu_dist.launch import scontrol
from momu_dist.launch.__main__ import main
from momu_dist.launch.attempt import attempt

SCONTROL = """#!/bin/sh
case "$*" in
  "show hostnames n1") echo n1;;
  "show job"*) echo "JobId=7 JobState=RUNNING Restarts=1";;
esac
"""


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """This process is the batch script of job 7, of which an older one has left its status; returns what is in there."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    given = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MOMU_CLUSTER", raising=False)
    path = tmp_path / "runs" / "slurm" / "7" / "status.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"job": 7, "ended": {"code": 0, "why": "of an older job"}}')
    return lambda: dict(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["hold", "--cluster", "nowhere"], "no site at"),
        (["hold", "--failure-budget", "-1"], "--failure-budget is -1, expected at least 0"),
        (["hold", "--failure-budget", "many"], "hold --failure-budget many: no work can be read from that"),
        (
            ["hold", "--failure-budget=many", "configs//a.yaml", "models:/dit@best", "x=http://me:hush@h"],
            "hold --failure-budget=many configs//a.yaml models:/dit@best x=http://***@h: no work",
        ),
        (["train", "--help"], "train --help: no work can be read from that"),
        (["dance"], "dance: no work"),
        ([], "no work"),
    ],
)
def test_the_status_says_what_kept_a_job_from_its_work(
    words: list[str], why: str, status: Callable[[], dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        attempt(words, deque())
    ended = status()["ended"]
    assert ended["code"] == 2 and why in ended["why"] and ended["requeued"] is False


def test_a_controller_that_is_silent_is_told_as_that(
    status: Callable[[], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho busy >&2; exit 1\n")
    monkeypatch.setattr(scontrol, "ANSWER_S", 0.0)
    with pytest.raises(GivenUp, match=r"nothing of job 7 .*\(busy\)"):
        attempt(["hold"], deque())
    ended = status()["ended"]
    assert "nothing of job 7" in ended["why"] and ended["code"] == 1  # no mistake of the user's


def test_a_signal_is_heeded_while_the_controller_is_silent(
    status: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(Stopped, match="SIGTERM before the work began"):
        attempt(["hold"], deque(["SIGTERM"]))
    assert status()["ended"]["code"] == 75


@pytest.mark.parametrize(("number", "code", "kind"), [(errno.ESTALE, 1, GivenUp), (errno.EACCES, 2, OSError)])
def test_a_fault_of_the_system_that_passes_is_no_mistake_of_the_users(
    number: int, code: int, kind: type[Exception], status: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def faulty(_: str) -> None:
        raise OSError(number, os.strerror(number), "site.yaml")

    monkeypatch.setattr("momu_dist.launch.sites.load_site", faulty)
    with pytest.raises(kind):
        attempt(["hold", "--cluster", "here"], deque())
    assert status()["ended"]["code"] == code


def test_an_installation_that_is_broken_is_told_too(
    status: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "momu_dist.launch.job", None)
    with pytest.raises(ImportError):
        attempt(["hold"], deque())
    ended = status()["ended"]
    assert ended["code"] == 1 and ended["why"].startswith("ModuleNotFoundError: ")


def test_help_is_no_mistake_of_who_asks_for_it_outside_a_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0 and "--failure-budget" in capsys.readouterr().out
    assert main(["hold"]) == 2 and "no SLURM allocation" in capsys.readouterr().err
