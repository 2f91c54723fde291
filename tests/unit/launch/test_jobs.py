"""What momu status and momu logs say of the files that jobs keep, and of SLURM's queue."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from momu_dist.cli import main
from momu_dist.errors import DataError
from momu_dist.launch import logs
from momu_dist.launch.facts import HERE, Record, write_record
from momu_dist.launch.logs import follow, log_file

FACTS = {
    "job": 7, "name": "train_dit", "restart": 2, "work": ["train", "--config", "configs/x.yaml"],
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


def program(folder: Path, name: str, text: str | None) -> None:
    """Put a program of SLURM there that prints a text; None: one that fails."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    shown = f"while read -r line; do echo \"$line\"; done <<'END'\n{text}\nEND\n"
    path.write_text(f"#!/bin/bash\n{'exit 1' if text is None else shown}")
    path.chmod(0o755)


@pytest.fixture
def set_queue(folder: Path) -> SetQueue:
    """What squeue prints from now on; None: it does not answer."""
    return lambda text: program(folder, "squeue", text)


@pytest.fixture
def set_accounting(folder: Path) -> SetQueue:
    """What sacct prints from now on; None: there is no accounting."""
    return lambda text: program(folder, "sacct", text)


NOW = datetime.now(UTC)


def submitted(job: str, **changed: Any) -> None:
    """What momu submit writes down of a job, an hour ago."""
    write_record(job, Record(**{"submitted": NOW - timedelta(hours=1), "name": "dit_a2m", **changed}))


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    assert main(arguments) == code
    captured = capsys.readouterr()
    return (captured.err if code else captured.out).splitlines()


def table(lines: list[str]) -> list[list[str]]:
    """The cells of what momu status prints."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_without_jobs_it_says_where_it_looked(
    folder: Path, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    none = f"No jobs: {folder / 'runs' / 'slurm'} holds none"
    alone = "There is no squeue here (or it does not answer), so only what jobs wrote themselves is known."
    assert said(capsys, "status") == [f"{none}; {HERE}.", alone]
    set_queue(None)
    assert said(capsys, "status") == [f"{none}; {HERE}.", alone]
    set_queue("")
    assert said(capsys, "status") == [f"{none}, and the queue has none of yours; {HERE}."]


def test_a_line_a_job(add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]) -> None:
    add_job(7)
    add_job(8, ended=ENDED, run=None, phase="ray", total_steps=None, restart=0, nodes=[{"name": "n1"}])
    add_job(9, ended={"code": 0, "why": "done", "first_failure": None}, step=100)
    add_job(11, run=None)
    add_job(100, restart=0)
    set_queue(
        "7|7|RUNNING|2|None|train_dit\n100|99_1|PENDING|1|BeginTime|sweep|of me\n12|12|PENDING|4|Dependency|next"
    )
    assert table(said(capsys, "status")) == [
        ["job", "name", "state", "phase", "step", "restarts", "nodes"],
        ["7", "dit_a2m", "RUNNING", "training", "40/100", "2", "2"],
        ["8", "x", "ENDED(2)", "ray", "-", "0", "1", f"{ENDED['why']} (first: no config at x)"],
        ["9", "dit_a2m", "DONE", "training", "100/100", "2", "2", "done"],
        ["11", "x", "LOST", "training", "40/100", "2", "2",
         "it is in no queue and did not say how it ended; see momu logs 11"],
        ["12", "next", "PENDING", "-", "-", "0", "4", "waits: Dependency"],
        ["100 (99_1)", "dit_a2m", "PENDING", "training", "40/100", "0", "2", "waits: BeginTime"],
    ]  # fmt: skip


def test_a_job_whose_launcher_said_nothing_is_told_of_by_its_log(
    folder: Path,
    add_job: AddJob,
    set_queue: SetQueue,
    set_accounting: SetQueue,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_job(7, ended={"code": 0, "why": "done", "first_failure": None})
    set_queue("")
    for name in ("slurm-train_dit-7", "slurm-my-sweep-8", "slurm-9", "slurm-my-\x1b[31mx-10"):
        (folder / f"{name}.out").touch()
    (folder / "slurm-my-sweep-8.out").write_text("a\nmomu: no checkout in \x1b[1m/x\n\n")
    rows = table(said(capsys, "status")[1:])
    assert [row[:3] for row in rows] == [
        ["7", "dit_a2m", "DONE"],
        ["8", "my-sweep", "LOST"],
        ["10", "my-x", "LOST"],
    ]
    word = "it is in no queue and did not say how it ended"
    assert rows[1][-1] == f"{word}; its log ends: momu: no checkout in /x; see momu logs 8"
    assert rows[2][-1] == f"{word}; see momu logs 10"
    set_accounting("8|FAILED|node1|my-sweep")
    assert [row[2] for row in table(said(capsys, "status")[1:])] == ["DONE", "FAILED", "LOST"]


REMOVED = "left the queue before it began, such as by scancel"


def test_a_job_that_left_the_queue_before_it_began(
    folder: Path, set_queue: SetQueue, set_accounting: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted("12", work=("train", "--config", "a b.yaml"))
    submitted("13", name="latents", after=("12",))
    set_queue("12|12|PENDING|1|Priority|dit_a2m\n13|13|PENDING|2|Dependency|latents")
    assert table(said(capsys, "status"))[1:] == [
        ["12", "dit_a2m", "PENDING", "-", "-", "0", "1", "waits: Priority"],
        ["13", "latents", "PENDING", "-", "-", "0", "2", "waits: Dependency (on 12)"],
    ]
    set_queue("")
    removed = [f"{REMOVED}; submit it again", f"{REMOVED} or because 12 did not succeed; submit it again"]
    assert [(row[2], row[-1]) for row in table(said(capsys, "status"))[1:]] == [
        ("REMOVED", one) for one in removed
    ]
    set_queue("13|13|PENDING|1|DependencyNeverSatisfied|latents")
    never = "waits: DependencyNeverSatisfied (on 12); it will never begin: scancel it"
    assert table(said(capsys, "status"))[2][-1] == never
    set_queue("")
    set_accounting("12|CANCELLED by 1000|None assigned|dit_a2m\n13|PENDING|None assigned|latents")
    assert [(row[2], row[-1]) for row in table(said(capsys, "status"))[1:]] == [
        ("CANCELLED", removed[0]),
        ("REMOVED", removed[1]),
    ]
    assert said(capsys, "status", "12")[2:] == [
        "work: train --config 'a b.yaml'",
        f"submitted: {NOW - timedelta(hours=1):%Y-%m-%d %H:%M:%S}",
    ]
    set_queue(None)
    assert [row[2] for row in table(said(capsys, "status"))[1:3]] == ["?", "?"]


def test_a_plain_sbatch_that_never_began_is_known_to_accounting(
    folder: Path, set_queue: SetQueue, set_accounting: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    set_queue("")
    said_none = said(capsys, "status", "5", code=2)[0]
    assert f"no job 5 in {folder / 'runs' / 'slurm'}" in said_none and "in the checkout" in said_none
    set_accounting("5|CANCELLED|None assigned|train_dit")
    row = table(said(capsys, "status", "5"))[1]
    assert (row[:3], row[-1]) == (["5", "train_dit", "CANCELLED"], f"{REMOVED}; submit it again")


def test_a_requeued_job_that_left_the_queue_has_not_ended_as_it_said(
    add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = {"code": 75, "why": "stopped", "first_failure": None, "requeued": True}
    add_job(7, ended=ended)
    add_job(8, ended={**ended, "requeued": False})
    set_queue("")
    rows = table(said(capsys, "status"))[1:]
    assert [(row[2], row[-1]) for row in rows] == [
        ("REMOVED", "left the queue before it began again, such as by scancel; submit it again"),
        ("ENDED(75)", "stopped"),
    ]


def test_what_an_older_cluster_left_under_the_same_number_is_not_taken_for_the_job(
    folder: Path, add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    home = folder / "runs" / "slurm" / "7"
    add_job(7, ended={"code": 0, "why": "done", "first_failure": None})
    (folder / "slurm-old-7.out").write_text("old\n")
    (home / "n1.r3.log").write_text("old\n")
    (home / "ray.json").write_text('{"head": "n1", "dashboard": "http://x", "token_file": "x"}')
    olds = (folder / "slurm-old-7.out", home / "n1.r3.log", home / "status.json", home / "ray.json")
    for path in olds:
        os.utime(path, (0, 0))
    submitted("7", name="mine")
    set_queue("")
    assert table(said(capsys, "status"))[1][:3] == ["7", "mine", "REMOVED"]
    assert "no log slurm-*-7.out" in said(capsys, "logs", "7", code=2)[0]
    assert "there is none yet" in said(capsys, "logs", "7", "--node", "n1", code=2)[0]
    assert "no Ray at" in said(capsys, "ray-job", "7", "--", "x", code=2)[0]
    for path in olds:  # of this job, whose node's clock is not quite this one's
        os.utime(path, ((home / "submitted.json").stat().st_mtime - 5,) * 2)
    assert table(said(capsys, "status"))[1][:3] == ["7", "dit_a2m", "DONE"]
    assert said(capsys, "logs", "7") == said(capsys, "logs", "7", "--node", "n1") == ["old"]


def test_only_the_newest_of_those_that_ended_are_shown(
    add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in range(1, 31):
        add_job(job, ended={"code": 0, "why": "done", "first_failure": None})
    set_queue("2|2|RUNNING|1|None|x\n40|40|PENDING|1|None|x")
    *lines, note = said(capsys, "status")
    assert [row[0] for row in table(lines)] == ["job", "2", *map(str, range(11, 31)), "40"]
    assert note == "9 jobs that ended before these are left out: momu status --all shows them too."
    assert len(said(capsys, "status", "--all")) == 32
    assert table(said(capsys, "status", "3"))[1][0] == "3"
    submitted("1")  # of a cluster that was set up anew, and counts from 1 again
    assert [row[0] for row in table(said(capsys, "status")[:3])] == ["job", "1", "2"]


def test_a_run_is_called_the_same_whichever_way_it_was_submitted(
    add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    """By sbatch the job is called as the script, and one that ends at its checks has no run folder yet."""
    begun = ["train", "--config", "configs/demo/dit_a2m.yaml"]
    ended = {"code": 0, "why": "done", "first_failure": None}
    add_job(1, run=None, ended=ended, work=begun)
    add_job(2, run=None, ended=ended, work=[*begun, "name=mine", "seed=1"])
    add_job(3, run=None, ended=ended, work=["evaluate", "--data=d", "--name=guidance-1"])
    add_job(4, run=None, ended=ended, work=[*begun, "--only-latents"])
    submitted("4", name="latents")
    add_job(5, run=None, ended=ended, work=["prepare", "--out", "data"], name="prepare")
    set_queue("")
    assert [row[1] for row in table(said(capsys, "status"))[1:]] == [
        "dit_a2m", "mine", "guidance-1", "latents", "prepare",
    ]  # fmt: skip
    assert f"work: {' '.join(begun)} name=mine seed=1" in said(capsys, "status", "2")


ODD = [
    "{", "[]", '{"ended": "x"}', '{"nodes": 3}', '{"nodes": ["a"]}', '{"run": 3}', '{"step": 1e999}', '{"phases_s": 1}',
    '{"job": 7,', "[" * 100_000, '{"run": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("name", ["status.json", "submitted.json"])
@pytest.mark.parametrize("text", ODD, ids=[text[:20] for text in ODD])
def test_an_odd_file_is_said_to_be_one(
    name: str,
    text: str,
    folder: Path,
    add_job: AddJob,
    set_queue: SetQueue,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for job in (7, 8):
        add_job(job, ended={"code": 0, "why": "done", "first_failure": None})
    (folder / "runs" / "slurm" / "7" / name).write_text(text)
    for number in ("\xb2", "\u0663", "9" * 200, "x"):
        (folder / "runs" / "slurm" / number).mkdir()
        (folder / "runs" / "slurm" / number / name).write_text("{}")
    set_queue("")
    first, second = table(said(capsys, "status"))[1:]
    assert first[:3] == ["7", "?", "UNREADABLE"] and second[:3] == ["8", "dit_a2m", "DONE"]
    assert first[-1].startswith(f"runs/slurm/7/{name} is not what a job writes there (")
    assert table(said(capsys, "status", "7"))[1] == first


def test_what_is_no_file_is_not_waited_for(
    folder: Path, add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe has no end."""
    for job in (7, 8):
        add_job(job, ended={"code": 0, "why": "done", "first_failure": None})
    os.mkfifo(folder / "runs" / "slurm" / "7" / "submitted.json")
    os.mkfifo(folder / "slurm-x-8.out")
    os.mkfifo(folder / "runs" / "slurm" / "8" / "n1.r0.log")
    set_queue("")
    first, second = table(said(capsys, "status"))[1:]
    assert first[2] == "UNREADABLE" and second[2] == "DONE"
    with pytest.raises(DataError, match="no log"):
        log_file("8", None)
    with pytest.raises(DataError, match="no log of node n1"):
        log_file("8", "n1")


def test_no_file_steers_the_terminal(
    folder: Path, add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    steering = "\x1b[31mred\x1b]0;title\x07\x9b1m\rb\x08\na\tb"
    shown = "red1mb a b"
    ended = {"code": 2, "why": steering, "first_failure": steering}
    add_job(7, run=f"/x/{steering}", phase=steering, ended=ended, work=[steering], nodes=[{"name": steering}])
    set_queue(f"8|8|PENDING|1|x\x1b[1m|{steering[:7]}y")
    lines = said(capsys, "status", "7")
    assert table(lines)[1][1:4] == [shown, "ENDED(2)", shown] and f"nodes: {shown}" in lines
    (folder / "slurm-a-7.out").write_text(f"bar 1\rbar 2\r\n{steering}")
    (folder / "runs" / "slurm" / "7" / "n1.r0.log").write_text("\x1b[36m(pid=1)\x1b[0m x")
    lines += [*said(capsys, "status"), *said(capsys, "logs", "7"), *said(capsys, "logs", "7", "--node", "n1")]
    assert not any(sign < " " and sign != "\t" for line in lines for sign in line)
    assert lines[-6:] == ["bar 1", "bar 2", "red1m", "b", "a\tb", "(pid=1) x"]


def test_one_job_also_by_its_number_in_an_array(
    add_job: AddJob, set_queue: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    add_job(7)
    add_job(100)
    set_queue("100|99_1|RUNNING|2|None|sweep")
    by_array, by_number = said(capsys, "status", "99_1"), said(capsys, "status", "100")
    assert by_array == by_number and by_array[1].startswith("100 (99_1)") and len(by_array) == 6
    assert "run: /shared/runs/dit_a2m" in by_array and "nodes: n1, n2" in by_array
    assert "no job '99_2' is in the queue" in said(capsys, "status", "99_2", code=2)[0]
    assert "no job '../7' is in the queue" in said(capsys, "logs", "../7", code=2)[0]


def test_an_element_that_waits_is_told_of_by_its_array(
    folder: Path, set_queue: SetQueue, set_accounting: SetQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted("55", name="dit_a2m", elements=tuple(f"dit_a2m-seed-{seed}" for seed in range(10)))
    set_queue("55|55_[2,4-6%3]|PENDING|1|JobArrayTaskLimit|dit_a2m\n57|55_1|RUNNING|1|None|dit_a2m")
    for element in ("55", "55_2", "55_5"):
        lines = said(capsys, "status", element)
        assert lines[1].startswith("55 (55_[2,4-6%3])  dit_a2m  PENDING")
        assert lines[3].startswith("elements: 10: dit_a2m-seed-0, dit_a2m-seed-1, ")
    assert said(capsys, "status", "55_1")[1].startswith("57 (55_1)")
    assert (
        "55_2 waits in the queue (JobArrayTaskLimit) and has no log yet"
        in said(capsys, "logs", "55_2", code=2)[0]
    )
    assert "no job '55_3' is in the queue" in said(capsys, "status", "55_3", code=2)[0]
    set_accounting("58|COMPLETED|node1|dit_a2m")  # what it says of 55_3
    (folder / "slurm-dit_a2m-58.out").write_text("done\n")
    assert said(capsys, "status", "55_3")[1].startswith("58   dit_a2m  COMPLETED")
    assert said(capsys, "logs", "55_3") == ["done"]


def test_logs(folder: Path, add_job: AddJob, capsys: pytest.CaptureFixture[str]) -> None:
    add_job(7)
    home = folder / "runs" / "slurm" / "7"
    assert "there is none yet" in said(capsys, "logs", "7", "--node", "n1", code=2)[0]
    message = said(capsys, "logs", "7", code=2)[0]
    assert f"no log slurm-*-7.out in {folder}" in message and "in the checkout from which" in message
    (folder / "slurm-a-17.out").write_text("other\n")
    (folder / "slurm-a-7.out").write_text("mine\n")
    for name in ("n1.r0", "n1.r10", "n1.r9", "n2.r0", "odd"):
        (home / f"{name}.log").write_text(f"{name}\n")
    (folder / "slurm-b-7.out").write_text("older\n")
    os.utime(folder / "slurm-b-7.out", (0, 0))
    (folder / "slurm-0-7.out").write_text("oldest\n")
    os.utime(folder / "slurm-0-7.out", (0, 0))
    assert said(capsys, "logs", "7") == ["mine"]
    assert said(capsys, "logs", "7", "--node", "n1") == ["n1.r10"]
    (home / "n3\x1b[1m.r0.log").touch()
    assert "there are: n1, n2, n3." in said(capsys, "logs", "7", "--node", "n4", code=2)[0]


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


def test_a_requeued_job_has_not_ended_while_squeue_does_not_answer(
    add_job: AddJob, set_queue: SetQueue
) -> None:
    set_queue(None)
    ended = {"code": 75, "why": "saved", "first_failure": None}
    for requeued, gone in ((True, False), (False, True)):
        add_job(7, ended={**ended, "requeued": requeued})
        assert logs.has_ended("7") is gone


@pytest.mark.parametrize(
    ("job", "waits"), [("57", "57|57|PENDING|1|{}|x"), ("55_2", "55|55_[2-3]|PENDING|1|{}|x")]
)
def test_following_a_job_that_waits_begins_with_its_log(
    job: str,
    waits: str,
    folder: Path,
    set_queue: SetQueue,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = f"57|{job}|RUNNING|1|None|x"
    rounds = iter([(waits.format("Resources"), ""), (runs, ""), (runs, "first\n"), ("", "second\n")])

    def pause(_: float) -> None:
        queue, log = next(rounds)
        set_queue(queue)
        if log:
            with (folder / "slurm-x-57.out").open("a") as file:
                file.write(log)

    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    set_queue(waits.format("Priority"))
    assert main(["logs", job, "--follow"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "first\nsecond\n"
    shown = waits.split("|")[1]
    assert captured.err == f"job {shown} waits in the queue (Priority); its log follows once it begins\n"


def test_following_ends_where_no_log_will_come(
    folder: Path, set_queue: SetQueue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_queue("57|57|RUNNING|1|None|x")  # submitted from another folder
    assert "no log slurm-*-57.out" in said(capsys, "logs", "57", "--follow", code=2)[0]
    set_queue("57|57|PENDING|1|Priority|x")
    pausing = SimpleNamespace(sleep=lambda _: set_queue(""), monotonic=time.monotonic)
    monkeypatch.setattr(logs, "time", pausing)
    monkeypatch.setattr(logs, "_LOG_S", -1.0)
    assert "no log slurm-*-57.out" in said(capsys, "logs", "57", "--follow", code=2)[-1]
