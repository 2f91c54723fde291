"""The launcher as a batch script runs it, with a SLURM and a Ray that are scripts: how a job ends, and what it leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from momu_dist.config.load import config_from_dict
from momu_dist.errors import ConfigError, Stopped
from momu_dist.launch import job as job_module
from momu_dist.launch.allocation import Allocation
from momu_dist.launch.scontrol import JobFacts
from momu_dist.launch.sites import Site
from momu_dist.launch.status import Status
from momu_dist.launch.work import Work
from momu_dist.train.process import GIVEN_AT, process_age_s

SCONTROL = """#!/usr/bin/env bash
echo "$@" >> {asked}
case "$*" in
  "show hostnames n1") echo n1;;
  "show job"*)
    echo "JobId=7 ${{PLAYED_ARRAY}}JobState=${{PLAYED_STATE:-RUNNING}} Reason=None EndTime=Unknown" \
      "${{PLAYED_GPUS:+JOB_GRES=gpu:$PLAYED_GPUS }}MinMemoryNode=2000M" \
      "Requeue=${{PLAYED_REQUEUE:-1}} Restarts=${{PLAYED_RESTARTS:-0}}";;
  "show config") echo "KillWait = 6 sec";;
  requeue*)
    [ -z "$PLAYED_REFUSAL" ] || {{ echo "$PLAYED_REFUSAL" >&2; exit 1; }}
    [ -z "$PLAYED_HASTE" ] || {{ kill -TERM $PPID; sleep 1; exit; }}
    (sleep 1; kill -TERM $PPID) > /dev/null 2>&1 & ;;
esac
"""
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
env > "$(dirname "$0")/env"
[ -n "$PLAYED_LINGER" ] || exec "$@"
"$@"
sleep "$PLAYED_LINGER"
"""
RAY = """#!/usr/bin/env bash
echo 'Ray runtime started.'
[ -z "$PLAYED_DEATH" ] || { sleep 1; exit 9; }
exec sleep 87654
"""


LOCAL = config_from_dict(
    {"stage": "dit_a2m", "name": "run", "train": {"strategy": "local", "workers": 1}}, "test"
)


class Played:
    """A launcher that was started in an allocation of one node, this machine."""

    def __init__(self, folder: Path, *work: str, **env: str) -> None:
        self.folder, self.asked = folder, folder / "asked"
        bin = folder / "bin"
        bin.mkdir()
        (bin / "python").symlink_to(sys.executable)
        for name, text in (("scontrol", SCONTROL.format(asked=self.asked)), ("srun", SRUN), ("ray", RAY)):
            (bin / name).write_text(text)
            (bin / name).chmod(0o755)
        site = folder / "site.yaml"
        site.write_text("env: {MOMU_PLAYED: here}\ntracking_uri: http://login01:5000\n")
        slurm = {
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_CPUS_PER_NODE": "2",
            "SLURM_SUBMIT_DIR": str(folder), "SLURM_MEM_PER_NODE": "2000",
        }  # fmt: skip
        self.output = folder / "log"
        with self.output.open("w") as log:
            self.process = subprocess.Popen(
                [bin / "python", "-u", "-m", "momu_dist.launch", *work, "--cluster", str(site)],
                stdout=log, stderr=log, cwd=folder,
                env={
                    **os.environ, "PATH": f"{bin}:{os.environ['PATH']}", **slurm, **env,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                },
            )  # fmt: skip

    def status(self) -> dict[str, Any]:
        path = self.folder / "runs" / "slurm" / "7" / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def wait_for(self, phase: str) -> None:
        until = time.monotonic() + 60
        while self.status().get("phase") != phase:
            assert time.monotonic() < until and self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)

    def ends(self, code: int) -> list[str]:
        """Wait for the end with that exit code; return the last lines. Nothing may be left."""
        assert self.process.wait(60) == code, self.output.read_text()
        left = subprocess.run(["pgrep", "-f", "^sleep 87654$"], capture_output=True, text=True).stdout.split()
        assert not left and not Path(f"/tmp/momu-{os.getuid()}-7").exists()
        assert not (self.folder / "runs" / "slurm" / "7" / "token").exists()
        return self.output.read_text().splitlines()[-5:]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Played]]:
    started: list[Played] = []

    def played(*work: str, **env: str) -> Played:
        started.append(Played(tmp_path, *work, **env))
        return started[-1]

    yield played
    for job in started:  # of a test that failed
        if job.process.poll() is None:
            job.process.send_signal(signal.SIGTERM)
            job.process.wait(60)


def a_job(
    folder: Path, restart: int = 1, signals: deque[str] | None = None, budget: int = 3
) -> job_module.Job:
    """A job in this process, in its first or a later start."""
    status = Status(folder / "runs" / "slurm" / "7" / "status.json").open(7, "momu", ["train"])
    status.restarted(restart)
    allocation = Allocation(7, restart, ("n1",), (2,), "7")
    return job_module.Job(allocation, Site(), budget, status, deque() if signals is None else signals)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller for a job in this process."""
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho JobId=7 JobState=RUNNING EndTime=Unknown\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_job_that_holds_ends_with_scancel(play: Callable[..., Played]) -> None:
    job = play("hold")
    job.wait_for("holding")
    address = job.folder / "runs" / "slurm" / "7" / "ray.json"
    assert address.stat().st_mode & 0o777 == 0o600
    job.process.send_signal(signal.SIGTERM)
    last = job.ends(0)
    assert "ends with exit code 0, not requeued: done" in last[-1]
    assert job.output.read_text().startswith(f"momu: site {job.folder / 'site.yaml'}\n")
    status = job.status()
    assert status["ended"]["code"] == 0 and {"start", "checks", "nodes", "ray"} <= status["phases_s"].keys()
    assert not address.exists()


def test_the_nodes_have_what_the_site_sets(play: Callable[..., Played]) -> None:
    job = play("hold", MLFLOW_TRACKING_URI="of the shell that submitted")
    job.wait_for("holding")
    job.process.send_signal(signal.SIGTERM)
    job.ends(0)
    found = (job.folder / "bin" / "env").read_text().splitlines()
    assert {"MOMU_PLAYED=here", "MLFLOW_TRACKING_URI=http://login01:5000"} <= set(found)


def test_an_evaluation_says_how_it_ended(play: Callable[..., Played]) -> None:
    """Without Ray; here it finds no data."""
    job = play("evaluate", "--checkpoint=nowhere", "--data=no data", "-n4")
    last = job.ends(2)
    assert any("no data" in line for line in last), last
    ended = job.status()["ended"]
    assert ended["code"] == 2 and "no data" in ended["why"] and not ended["requeued"]
    assert "ray" not in job.status()["phases_s"] and not (job.folder / "bin" / "env").exists()


def test_a_signal_that_comes_while_the_launcher_is_still_loaded_is_answered(
    play: Callable[..., Played],
) -> None:
    job = play("hold")
    caught = 0
    while not caught >> (signal.SIGUSR2 - 1) & 1:
        state = Path(f"/proc/{job.process.pid}/status").read_text()
        caught = int(state.partition("SigCgt:")[2].split()[0], 16)
    assert "libtorch" not in Path(f"/proc/{job.process.pid}/maps").read_text()
    job.process.send_signal(signal.SIGUSR2)
    assert job.process.wait(60) == -signal.SIGTERM  # of the requeue
    ended = job.status()["ended"]
    assert ended["code"] == 75 and ended["requeued"] and "before the work began" in ended["why"]
    assert job.status()["failures"] == 1 and "nodes" not in job.status()["phases_s"]


def test_sigint_saves_and_stops_as_the_other_signals_do(play: Callable[..., Played]) -> None:
    job = play("hold")
    job.wait_for("holding")
    job.process.send_signal(signal.SIGINT)
    assert "held until it was told to end" in job.ends(0)[-2]
    assert job.status()["ended"]["code"] == 0


def test_a_ray_that_dies_ends_the_job_which_is_requeued(play: Callable[..., Played]) -> None:
    """It had taken part, so it is a fault of the machine, not of the job."""
    job = play("hold", PLAYED_DEATH="1")
    assert job.process.wait(60) == -signal.SIGTERM  # of the requeue that SLURM accepted
    ended = job.status()["ended"]
    assert ended["requeued"] and "n1" in ended["first_failure"] and job.status()["failures"] == 1
    assert "requeue 7" in job.asked.read_text()
    assert "first to fail: n1 was lost" in job.output.read_text()
    kept = job.folder / "runs" / "slurm" / "7"
    assert "Ray runtime started" in (kept / "n1.r0.log").read_text()


def test_slurm_may_end_a_requeued_job_before_scontrol_says_so(play: Callable[..., Played]) -> None:
    job = play("hold", PLAYED_DEATH="1", PLAYED_HASTE="1")
    job.wait_for("ended")
    assert job.process.wait(20) == -signal.SIGTERM
    *_, asking, done = job.output.read_text().splitlines()
    assert "asking SLURM to requeue it: failure 1" in asking and "code 1, requeued: failure 1" in done
    assert job.status()["ended"]["requeued"]


def test_a_job_that_is_cancelled_while_slurm_is_busy_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    def busy(_: str) -> str:
        ended = json.loads(job.status.path.read_text())["ended"]
        told.append((ended["code"], ended["requeued"]))
        return BUSY

    told: list[tuple[int, bool | None]] = []
    facts = iter([JobFacts("RUNNING"), JobFacts("RUNNING"), JobFacts("CANCELLED")])
    monkeypatch.setattr(job_module, "REQUEUE_PAUSE_S", 0.01)
    monkeypatch.setattr(job_module, "make_work", broken)
    monkeypatch.setattr(job_module, "requeue", busy)
    monkeypatch.setattr(job_module, "job_facts", lambda _: next(facts))
    job = a_job(tmp_path)
    assert job.run("hold", []) == 1
    assert told == [(1, None)] * 2 and job.status.facts["ended"]["requeued"] is False
    assert "not requeued: it is being ended by SLURM (CANCELLED)" in capfd.readouterr().out.splitlines()[-1]


def test_a_job_that_is_told_to_end_while_slurm_is_busy_is_not_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: None
) -> None:
    """Whatever SLURM says of it: to ask once more would undo that it was cancelled."""
    asked: list[str] = []
    signals: deque[str] = deque()

    def busy(job: str) -> str:
        asked.append(job)
        signals.append("SIGTERM")
        return BUSY

    monkeypatch.setattr(job_module, "requeue", busy)
    monkeypatch.setattr(job_module, "job_facts", lambda _: JobFacts())
    job = a_job(tmp_path, signals=signals)
    assert "it was told to end meanwhile" in job._requeue(JobFacts()) and asked == ["7"]


def test_a_job_that_was_told_to_end_is_not_requeued_before_slurm_says_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: None
) -> None:
    """It may have been cancelled, and to requeue it would bring it back."""

    def stopped(*_: object) -> None:
        signals.append("SIGTERM")
        raise Stopped("saved")

    asked: list[str] = []
    signals: deque[str] = deque()
    facts = iter([JobFacts(), JobFacts(), JobFacts(), JobFacts("COMPLETING", restarts=1, reason="None")])
    monkeypatch.setattr(job_module, "REQUEUE_PAUSE_S", 0.01)
    monkeypatch.setattr(job_module, "make_work", stopped)
    monkeypatch.setattr(job_module, "requeue", asked.append)
    monkeypatch.setattr(job_module, "job_facts", lambda _: next(facts))
    job = a_job(tmp_path, signals=signals)
    assert job.run("hold", []) == 75 and asked == []
    assert job.must_end < time.time() + job.kill_wait_s  # there is no more for sure
    assert job.status.facts["ended"]["requeued"] is False


def test_a_job_that_is_cancelled_while_its_ray_ends_is_not_requeued(play: Callable[..., Played]) -> None:
    job = play("hold", PLAYED_DEATH="1", PLAYED_STATE="CANCELLED", PLAYED_LINGER="3")
    job.wait_for("ending")
    job.process.send_signal(signal.SIGTERM)
    last = job.ends(1)
    assert "not requeued: it was cancelled; submit it again to go on" in last[-1]
    assert "requeue" not in job.asked.read_text()
    assert not job.status()["ended"]["requeued"]


@pytest.mark.parametrize(
    ("facts", "why", "requeued", "last"),
    [
        (JobFacts("COMPLETING", restarts=1, reason="None"), "it was cancelled: saved", False, "submit it again"),
        (JobFacts("COMPLETING", restarts=2, preempted=True), "it was preempted: saved", True, "requeued: it was preempted"),
        (JobFacts("COMPLETING", restarts=1, preempted=True), "it was preempted: saved", False, "submit it again"),
        (
            JobFacts("COMPLETING", restarts=1, reason="TimeLimit"),
            "it is being ended by SLURM (TimeLimit): saved", False, "submit it again",
        ),
        (JobFacts("RUNNING", restarts=1, reason="None"), "saved", True, "it was stopped before its end"),
    ],
)  # fmt: skip
def test_why_slurm_ends_a_job_is_said_with_what_follows(
    facts: JobFacts,
    why: str,
    requeued: bool,
    last: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scontrol: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> None:
        signals.append("SIGTERM")
        raise Stopped("saved")

    signals: deque[str] = deque()
    monkeypatch.setattr(job_module, "make_work", stopped)
    monkeypatch.setattr(job_module, "job_facts", lambda _: facts)
    monkeypatch.setattr(job_module, "requeue", lambda _: "")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    job = a_job(tmp_path, signals=signals)
    assert job.run("train", []) == 75
    ended = job.status.facts["ended"]
    assert (ended["why"], ended["requeued"]) == (why, requeued)
    said = capfd.readouterr().out
    assert why in said and last in said.splitlines()[-1]
    assert (f"SIGTERM from SLURM, as {why.partition(':')[0]}" in said) is (not facts.running)


def test_a_job_that_slurm_is_ending_is_not_requeued_though_it_heard_of_nothing(
    play: Callable[..., Played],
) -> None:
    job = play("hold", PLAYED_DEATH="1", PLAYED_STATE="CANCELLED")
    assert "not requeued: it was cancelled" in job.ends(1)[-1]


def test_a_preparation_that_is_stopped_before_it_has_finished_a_file_came_no_further(
    play: Callable[..., Played],
) -> None:
    """Otherwise a time limit too short for one shard would repeat for ever."""
    words = ("--source", "synthetic", "--no-ray", "source_options.n_clips=1000")
    job = play("prepare", *words, "--out", "new/prepared")
    job.wait_for("workers")
    job.process.send_signal(signal.SIGUSR2)
    assert job.process.wait(60) == -signal.SIGTERM
    assert job.status()["ended"]["requeued"] and job.status()["failures"] == 1


def died(folder: Path, **facts: Any) -> dict[str, str]:
    """Leave the status of a first attempt that never said how it ended; return how SLURM is played for the second."""
    path = folder / "runs" / "slurm" / "7" / "status.json"
    path.parent.mkdir(parents=True)
    attempt = {"job": 7, "restart": 0, "phase": "training", "ended": None, "before": []}
    path.write_text(json.dumps({**attempt, **facts}))
    return {"PLAYED_RESTARTS": "1"}


def test_an_attempt_that_died_without_a_word_counts(play: Callable[..., Played], tmp_path: Path) -> None:
    job = play("hold", **died(tmp_path, failures=1, reached=0))
    job.wait_for("holding")
    assert job.status()["failures"] == 2
    job.process.send_signal(signal.SIGTERM)
    job.ends(0)


def test_attempts_that_died_are_not_repeated_for_ever(play: Callable[..., Played], tmp_path: Path) -> None:
    job = play("hold", **died(tmp_path, failures=3, reached=0))
    last = job.ends(2)
    assert any("4 attempts in a row came no further, the budget is 3" in line for line in last), last
    assert "not requeued" in last[-1]


def test_an_evaluation_begins_anew_as_often_as_it_is_preempted(
    play: Callable[..., Played], tmp_path: Path
) -> None:
    """Here it finds no data."""
    job = play("evaluate", "--checkpoint=nowhere", "--data=no data", **died(tmp_path, failures=3, reached=0))
    assert job.process.wait(60) == 2
    assert "no data" in job.status()["ended"]["why"]


def test_an_attempt_that_died_after_it_had_come_further_begins_the_count_anew(
    tmp_path: Path, scontrol: None
) -> None:
    died(tmp_path, failures=3, reached=20)
    job = a_job(tmp_path)
    job._check_budget(40)
    assert job.status.failures == 1 and job.status.facts["reached"] == 40
    died_again = a_job(tmp_path, restart=2, budget=0)
    with pytest.raises(ConfigError, match="2 attempts in a row"):
        died_again._check_budget(40)


@pytest.mark.parametrize(
    ("why", "first"),
    [
        ("error: rank 1 on node2: the run folder cannot be written.", "rank 1 on node2: the run folder cannot be written."),
        ("error: training of x was given up (train.max_failures 3); last cause: rank 0: KeyError", "rank 0: KeyError"),
        ("error: no progress of ranks 1, 2: they hang", None),
        ("error: no config at x", None),
    ],
)  # fmt: skip
def test_the_worker_that_failed_first_is_read_of_the_drivers_last_words(why: str, first: str | None) -> None:
    assert job_module.failing_rank(why) == first


def test_an_element_of_an_array_asks_for_itself_alone_and_says_if_it_is_refused(
    play: Callable[..., Played],
) -> None:
    array = {"PLAYED_ARRAY": "ArrayJobId=7 ArrayTaskId=2 "}
    job = play("hold", PLAYED_DEATH="1", PLAYED_REFUSAL="disabled for this job", PLAYED_REQUEUE="0", **array)
    last = job.ends(1)
    assert "disabled for this job" in last[-1] and not job.status()["ended"]["requeued"]
    asked = job.asked.read_text().splitlines()
    assert "requeue 7_2" in asked and "show job -d 7_2" in asked and "requeue 7" not in asked


def test_a_job_that_was_submitted_in_another_one_takes_itself_for_no_other(
    play: Callable[..., Played],
) -> None:
    """SLURM leaves those variables of the other one that it would not set for this one."""
    other = {
        "SLURM_ARRAY_JOB_ID": "26", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "4", "SLURM_JOB_GPUS": "0,1",
        "SLURM_MEM_PER_CPU": "1", "SLURM_LABELIO": "1",
    }  # fmt: skip
    job = play("hold", PLAYED_DEATH="1", **other)
    assert job.process.wait(60) == -signal.SIGTERM
    assert [line for line in job.asked.read_text().splitlines() if "requeue" in line] == ["requeue 7"]
    status = job.status()
    assert status["restart"] == 0
    assert [(node["gpus"], node["memory_mb"]) for node in status["nodes"]] == [(0, 2000)]


BUSY = "slurm_load_jobs error: Unable to contact slurm controller"


@pytest.mark.parametrize(
    ("answers", "facts", "left_s", "asked", "refused"),
    [
        ([""], JobFacts(), 60, 1, ""),
        ([BUSY, BUSY, ""], JobFacts(), 60, 3, ""),
        ([BUSY, BUSY, ""], JobFacts("RUNNING", restarts=1), float("inf"), 3, ""),
        ([BUSY], JobFacts("COMPLETING", restarts=2), 60, 1, ""),  # only the answer was late
        ([BUSY], JobFacts("RUNNING", restarts=2), 60, 1, ""),
        ([BUSY], JobFacts("COMPLETING", restarts=1), 60, 1, "it is being ended by SLURM"),
        ([BUSY], JobFacts("RUNNING", requeues=False), 60, 1, BUSY),
        ([BUSY], JobFacts(), 0, 1, BUSY),
        ([BUSY, BUSY, ""], JobFacts("RUNNING"), 0, 3, ""),  # its limit was moved
        ([BUSY], JobFacts("RUNNING", end=0), 60, 1, BUSY),
    ],
)
def test_a_controller_that_is_busy_is_asked_again_as_long_as_there_is_time(
    answers: list[str],
    facts: JobFacts,
    left_s: float,
    asked: int,
    refused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scontrol: None,
) -> None:
    said = iter(answers)
    monkeypatch.setattr(job_module, "REQUEUE_PAUSE_S", 0.01)
    monkeypatch.setattr(job_module, "requeue", lambda job: next(said))
    monkeypatch.setattr(job_module, "job_facts", lambda job: facts)
    job = a_job(tmp_path)
    found = job._requeue(JobFacts("RUNNING", end=time.time() + left_s))
    assert refused in found and bool(found) is bool(refused)
    assert len(answers) - len(list(said)) == asked


def test_slurm_is_not_asked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: None) -> None:
    monkeypatch.setattr(job_module, "REQUEUE_PAUSE_S", 0.05)
    monkeypatch.setattr(job_module, "REQUEUE_S", 0.5)
    monkeypatch.setattr(job_module, "requeue", lambda job: BUSY)
    monkeypatch.setattr(job_module, "job_facts", lambda job: JobFacts())
    job = a_job(tmp_path)
    began = time.monotonic()
    assert BUSY in job._requeue(JobFacts("RUNNING")) and time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("nobody thought of this"), "RuntimeError: nobody thought of this"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
    ],
    ids=repr,
)
def test_a_fault_of_the_launcher_is_told_as_the_end_of_the_job(
    error: Exception,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scontrol: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(job_module, "make_work", broken)
    job = a_job(tmp_path, restart=0)
    assert job.run("train", []) == 1
    printed = capfd.readouterr()
    assert said in printed.out.splitlines()[-2]
    assert "first to fail: the launcher, on n1" in printed.out and "in broken" in printed.err
    ended = json.loads((tmp_path / "runs" / "slurm" / "7" / "status.json").read_text())["ended"]
    assert ended["code"] == 1 and not ended["requeued"]


def test_the_driver_is_told_that_its_command_is_as_old_as_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: None
) -> None:
    """Ray comes up before the driver starts: a file `stop` that is laid meanwhile is meant for it."""
    started: list[dict[str, str]] = []

    class Driver:
        code = 0

        def __init__(self, name: str, command: object, env: dict[str, str], heard: object) -> None:
            started.append(env)

    monkeypatch.setattr(job_module, "Child", Driver)
    monkeypatch.setattr(job_module, "end_all", lambda *_: None)
    monkeypatch.setattr(job_module, "make_work", lambda *_: Work(("true",), config=LOCAL))
    job = a_job(tmp_path, restart=0)
    assert job.run("train", []) == 0
    assert started[0]["PYTHONUNBUFFERED"] == "1"
    assert abs(float(started[0][GIVEN_AT]) - (time.time() - process_age_s())) < 0.1


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (("train", "--config", "nowhere.yaml"), "no config at nowhere.yaml"),
        (("train", "--config", "a", "--no-such-option"), "cannot be read"),
        (("hold", "for", "ever"), "hold takes no arguments"),
    ],
)
def test_a_mistake_is_said_before_any_node_is_used(
    play: Callable[..., Played], work: tuple[str, ...], why: str
) -> None:
    job = play(*work)
    last = job.ends(2)
    assert any(why in line for line in last), last
    assert job.status()["ended"]["code"] == 2
    assert not (job.folder / "runs" / "slurm" / "7" / "n1.r0.log").exists()


def test_gpus_that_torch_cannot_use_are_said_before_any_node_is_used(play: Callable[..., Played]) -> None:
    config = Path(__file__).parents[3] / "configs" / "demo" / "music_vae.yaml"
    work = ("train", "--config", str(config), "train.device=auto")
    more_than_any_machine_has = {"CUDA_VISIBLE_DEVICES": "98,99", "SLURM_GPUS_ON_NODE": "2"}
    job = play(*work, **more_than_any_machine_has, PLAYED_GPUS="2")
    last = job.ends(2)
    assert any("SLURM gave this job 2 GPUs a node" in line for line in last), last
    assert not (job.folder / "runs" / "slurm" / "7" / "n1.r0.log").exists()
