"""What momu status and momu logs say of the files that jobs keep, and of SLURM's queue."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from momu_dist.cli import main
from momu_dist.launch.jobs import follow, read_queue

FACTS = {
    "job": 7, "name": "train_dit", "restart": 2, "work": ["train", "--config", "x"],
    "nodes": [{"name": "n1", "cpus": 4}, {"name": "n2", "cpus": 4}],
    "phase": "training", "phases_s": {"ray": 9.5}, "run": "/shared/runs/dit_a2m", "step": 40, "total_steps": 100,
    "failures": 0, "ended": None,
}  # fmt: skip
ENDED = {"code": 2, "why": "another attempt would end the same", "first_failure": "no config at x"}

AddJob = Callable[..., None]
SetQueue = Callable[[str | None], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


@pytest.fixture
def add_job(folder: Path) -> AddJob:
    """(job, changed facts) -> a job with such a status.json."""

    def add(job: int, **changed: Any) -> None:
        path = folder / "runs" / "slurm" / str(job) / "status.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**FACTS, "job": job, **changed}))

    return add


@pytest.fixture
def set_queue(folder: Path) -> SetQueue:
    """What squeue prints from now on; None: it does not answer."""

    def put(text: str | None) -> None:
        program = folder / "bin" / "squeue"
        program.parent.mkdir(exist_ok=True)
        said = (
            "exit 1\n"
            if text is None
            else f"while read -r line; do echo \"$line\"; done <<'END'\n{text}\nEND\n"
        )
        program.write_text(f"#!/bin/bash\n{said}")
        program.chmod(0o755)

    return put


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    assert main(arguments) == code
    captured = capsys.readouterr()
    return (captured.err if code else captured.out).splitlines()


def test_without_jobs_it_says_where_it_looked(
    folder: Path, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    none = f"No jobs: {folder / 'runs' / 'slurm'} holds none"
    alone = "There is no squeue here (or it does not answer), so only what jobs wrote themselves is known."
    assert said(capsys, "status") == [f"{none}.", alone]
    set_queue(None)
    assert said(capsys, "status") == [f"{none}.", alone]
    set_queue("")
    assert said(capsys, "status") == [f"{none}, and the queue has none of yours."]


def test_a_line_a_job(add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]) -> None:
    add_job(7)
    add_job(8, ended=ENDED, run=None, phase="ray", total_steps=None, restart=0, nodes=[{"name": "n1"}])
    add_job(9, ended={"code": 0, "why": "done", "first_failure": None}, step=100)
    add_job(11, run=None)
    add_job(100, restart=0)
    set_queue(
        "7|7|RUNNING|2|None|train_dit\n100|99_1|PENDING|1|BeginTime|sweep|of me\n12|12|PENDING|4|Dependency|next"
    )
    rows = [line.split("  ") for line in said(capsys, "status")]
    table = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert table == [
        ["job", "name", "state", "phase", "step", "restarts", "nodes"],
        ["7", "dit_a2m", "RUNNING", "training", "40/100", "2", "2"],
        ["8", "train_dit", "ENDED(2)", "ray", "-", "0", "1", f"{ENDED['why']} (first: no config at x)"],
        ["9", "dit_a2m", "DONE", "training", "100/100", "2", "2", "done"],
        ["11", "train_dit", "LOST", "training", "40/100", "2", "2",
         "it is in no queue and did not say how it ended; see momu logs 11"],
        ["12", "next", "PENDING", "-", "-", "0", "4", "waits: Dependency"],
        ["100 (99_1)", "dit_a2m", "PENDING", "training", "40/100", "0", "2", "waits: BeginTime"],
    ]  # fmt: skip


def test_a_job_that_failed_before_it_could_write_anything_is_known_by_its_log(
    folder: Path, add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    add_job(7, ended={"code": 0, "why": "done", "first_failure": None})
    set_queue("")
    for name in ("slurm-train_dit-7", "slurm-my-sweep-8", "slurm-9"):
        (folder / f"{name}.out").touch()
    rows = [line.split() for line in said(capsys, "status")[1:]]
    assert [row[:3] for row in rows] == [["7", "dit_a2m", "DONE"], ["8", "my-sweep", "LOST"]]
    assert rows[1][-3:] == ["momu", "logs", "8"]


def test_one_job_also_by_its_number_in_an_array(
    add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    add_job(7)
    add_job(100)
    set_queue("100|99_1|RUNNING|2|None|sweep")
    by_array, by_number = said(capsys, "status", "99_1"), said(capsys, "status", "100")
    assert by_array == by_number and by_array[1].startswith("100 (99_1)") and len(by_array) == 5
    assert "run: /shared/runs/dit_a2m" in by_array and "nodes: n1, n2" in by_array
    assert "no job 5 in " in said(capsys, "status", "5", code=2)[0]
    assert "no job '99_2' is in the queue" in said(capsys, "status", "99_2", code=2)[0]
    assert "no job '../7' is in the queue" in said(capsys, "logs", "../7", code=2)[0]


def test_a_torn_status_is_none(folder: Path, add_job: AddJob, capsys: pytest.CaptureFixture[str]) -> None:
    add_job(7)
    (folder / "runs" / "slurm" / "7" / "status.json").write_text('{"job": 7,')
    (folder / "runs" / "slurm" / "submitted").mkdir()
    assert said(capsys, "status")[1].split()[:3] == ["7", "?", "?"]


def test_an_array_that_waits_as_a_whole_is_one_line() -> None:
    queue = read_queue("slurm says hello\n20|20_[0-2%3]|PENDING|1|(Priority)|a|b|c\n")
    assert list(queue) == ["20"] and queue["20"].name == "a|b|c"


def test_logs(folder: Path, add_job: AddJob, capsys: pytest.CaptureFixture[str]) -> None:
    add_job(7)
    home = folder / "runs" / "slurm" / "7"
    assert "there is none yet" in said(capsys, "logs", "7", "--node", "n1", code=2)[0]
    assert "no log slurm-*-7.out" in said(capsys, "logs", "7", code=2)[0]
    (folder / "slurm-a-17.out").write_text("other\n")
    (folder / "slurm-a-7.out").write_text("mine\n")
    for name in ("n1.r0", "n1.r10", "n1.r9", "n2.r0", "odd"):
        (home / f"{name}.log").write_text(f"{name}\n")
    assert said(capsys, "logs", "7") == ["mine"]
    assert said(capsys, "logs", "7", "--node", "n1") == ["n1.r10"]
    assert "there are: n1, n2." in said(capsys, "logs", "7", "--node", "n3", code=2)[0]


def test_following_goes_on_in_the_file_of_a_restart_and_ends_with_the_job(folder: Path) -> None:
    first, second = folder / "n1.r0.log", folder / "n1.r1.log"
    first.write_text("a")
    rounds = iter(["more", "restart", "end"])

    def ended() -> bool:
        now = next(rounds)
        if now == "more":
            first.write_text("ab")
        if now == "restart":
            first.write_text("abc")
            second.write_text("d")
        return now == "end"

    found = follow(lambda: second if second.exists() else first, ended, pause_s=0)
    assert list(found) == ["ab", "c", "d"]


def test_following_a_job_that_has_ended_prints_its_log_once(
    folder: Path, add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    add_job(7, ended=ENDED)
    (folder / "slurm-a-7.out").write_text("all\n")
    assert said(capsys, "logs", "7", "--follow") == ["all"]  # by what it said itself
    set_queue("")
    add_job(7)
    assert said(capsys, "logs", "7", "--follow") == ["all"]  # by the queue
    assert os.environ["PATH"] == str(folder / "bin")
