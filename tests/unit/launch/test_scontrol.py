"""What is read of SLURM's answers; its programs are played by scripts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from momu_dist.errors import ConfigError
from momu_dist.launch import scontrol
from momu_dist.launch.queue import ask_accounting, ask_queue


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """(lines by name of the program) -> programs of these names, and nothing else of SLURM."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    for name in ("scontrol", "scancel", "squeue", "sinfo", "sacct"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)

    def put(**lines: str) -> None:
        for name, text in lines.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")

    return put


def test_the_end_of_a_job_is_read_whatever_the_users_form_of_times(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%T")
    when = "2026-11-26T14:03:11"
    programs(
        scontrol=f'[ "$SLURM_TIME_FORMAT" = standard ] && t={when} || t=14:03:11\necho "JobState=RUNNING EndTime=$t"'
    )
    assert scontrol.job_facts("7").end == datetime.fromisoformat(when).timestamp()


def test_defaults_of_the_users_own_hide_nothing(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_STATES", "SINFO_PARTITION", "SACCT_FORMAT"):
        monkeypatch.setenv(name, "x")
    programs(
        squeue='[ -n "$SQUEUE_STATES" ] || echo "7|7|RUNNING|1|None|x"',
        sinfo='[ -n "$SINFO_PARTITION" ] || echo "gpu*|4"',
        sacct='[ -n "$SACCT_FORMAT" ] || echo "7|FAILED|n1|x"',
    )
    assert list(ask_queue() or ()) == ["7"]
    assert scontrol.partition_sizes() == {"gpu*": 4}
    assert [past.job for past in ask_accounting(["7"])] == ["7"]


RECORD = """
   UserId=me(1) GroupId=us(1) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   StartTime=Unknown EndTime=Unknown Deadline=N/A
   NodeList=n1
   TRES=cpu=4,mem=4000M{more}
   Command=/data/me/{free}
   WorkDir=/data/me/{free}
   Comment={free}
   StdOut=/data/me/{free}.out
"""
FREE = "x JobId=3 ArrayJobId=1 JobState=FAILED Restarts=9 Requeue=0 Reason=None gres/gpu TRES=cpu=1,gres/gpu=2 MinMemoryNode=1G"
"""What an owner may have written into a job's name, comment or paths."""


def record(ids: str, restarts: int = 0, more: str = " MinMemoryNode=0", free: str = "x") -> str:
    """A job as `scontrol show job -d` shows it."""
    return f"{ids} JobName={free}{RECORD.format(restarts=restarts, more=more, free=free)}"


def test_an_element_of_an_array_is_known_by_its_own_record(programs: Callable[..., None]) -> None:
    """By the number of the array SLURM shows all its elements, one of which has that number itself."""
    elements = [
        record("JobId=13 ArrayJobId=12 ArrayTaskId=0 ArrayTaskThrottle=2", restarts=7),
        record("JobId=12 ArrayJobId=12 ArrayTaskId=1", restarts=2),
    ]
    programs(scontrol="cat << 'END'\n" + "\n".join(elements) + "\nEND")
    found = scontrol.job_facts("12")
    assert (found.slurm_id, found.restarts) == ("12_1", 2)


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        (record("JobId=7"), "7"),
        (record("JobId=7", free="x ArrayJobId=1 ArrayTaskId=2 JobId=3 "), "7"),
        (record("JobId=7 ArrayJobId=7 ArrayTaskId=3-9"), "7"),  # those that wait
    ],
    ids=str,
)
def test_a_plain_job_is_known_by_its_number_whatever_its_name(
    programs: Callable[..., None], shown: str, known: str
) -> None:
    programs(scontrol=f"echo '{shown}'")
    assert scontrol.job_facts("7").slurm_id == known


def test_what_the_owner_of_a_job_wrote_is_no_fact(programs: Callable[..., None]) -> None:
    found = []
    for free in ("x", FREE):
        programs(scontrol=f"cat << 'END'\n{record('JobId=7', restarts=2, free=free)}\nEND")
        found.append(scontrol.job_facts("7"))
    assert found[0] == found[1] and (found[0].state, found[0].restarts) == ("RUNNING", 2)


@pytest.mark.parametrize(
    ("more", "gpus", "memory"),
    [
        (" JOB_GRES=(null) MinMemoryCPU=1000M", False, {"CPU"}),
        (",gres/gpu=2 JOB_GRES=gpu:2 MinMemoryNode=8G", True, {"NODE"}),
        (" JOB_GRES=gpu:fake:4   Nodes=n1 CPU_IDs=0-3 Mem=4000 GRES=gpu:fake:2(IDX:0-1) MinMemoryNode=0", True, set()),
        (" JOB_GRES=(null) MinMemoryNode=0 TresPerNode=gres:gpu:0", False, set()),
        (" JOB_GRES=gpu:1 MinMemoryNode=0 MemPerTres=gres:gpu:3000", True, {"GPU"}),
    ],
)  # fmt: skip
def test_what_a_job_was_given_is_read(
    programs: Callable[..., None], more: str, gpus: bool, memory: set[str]
) -> None:
    programs(scontrol=f"echo '{record('JobId=7', more=more)}'")
    found = scontrol.job_facts("7")
    assert (found.gpus, found.memory_per) == (gpus, memory)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("JobState=RUNNING Reason=None Restarts=1", ""),
        ("JobState=SIGNALING Reason=None Restarts=1", ""),
        ("JobState=COMPLETING Reason=None Restarts=1", "was cancelled"),
        ("JobState=CANCELLED Reason=None Restarts=1 PreemptEligibleTime=2026-11-26T14:03:11 PreemptTime=None", "was cancelled"),
        ("JobState=COMPLETING Reason=TimeLimit Restarts=1", "is being ended by SLURM (TimeLimit)"),
        ("JobState=COMPLETING Reason=None Restarts=1 PreemptTime=2026-11-26T14:03:11", "was preempted"),
        ("JobState=COMPLETING Reason=None Restarts=2 PreemptTime=2026-11-26T14:03:11", "was preempted"),
        ("JobState=COMPLETING Reason=None Restarts=2", "was put back into the queue"),
    ],
)  # fmt: skip
def test_why_slurm_ends_a_job(programs: Callable[..., None], said: str, why: str) -> None:
    programs(scontrol=f"echo 'JobId=7 {said}'")
    assert scontrol.job_facts("7").why_ended(1) == why


def test_a_job_that_begins_waits_for_a_controller_that_is_busy(
    programs: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = f"[ -e {tmp_path}/asked ] && echo 'JobId=7 JobState=RUNNING' || {{ touch {tmp_path}/asked; echo busy >&2; exit 1; }}"
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    programs(scontrol=busy)
    assert scontrol.own_facts("7", lambda: False).state == "RUNNING"
    programs(scontrol="echo 'socket timed out' >&2; exit 1")
    assert scontrol.own_facts("7", lambda: True).complaint == "socket timed out"
    monkeypatch.setattr(scontrol, "ANSWER_S", 0.0)
    assert scontrol.own_facts("7", lambda: False).complaint == "socket timed out"


def test_a_job_without_a_batch_script_cannot_be_requeued(programs: Callable[..., None]) -> None:
    programs(scontrol="echo 'JobId=7 JobState=RUNNING Requeue=1 Restarts=0 BatchFlag=0'")
    assert not scontrol.job_facts("7").requeues
    programs(scontrol="echo 'JobId=7 JobState=RUNNING Requeue=1 Restarts=0 BatchFlag=1'")
    assert scontrol.job_facts("7").requeues


def test_nothing_waits_for_a_slurm_that_hangs(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scontrol, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(scontrol, "QUEUE_S", 0.3)
    programs(**dict.fromkeys(("scontrol", "scancel", "squeue"), "exec sleep 30"))
    began = time.monotonic()
    assert scontrol.job_facts("7").running and scontrol.job_facts("7").end == float("inf")
    assert "timed out" in scontrol.requeue("7")
    scontrol.cancel("7")
    with pytest.raises(ConfigError, match="timed out"):
        scontrol.hostnames("n[1-2]")
    assert scontrol.kill_wait_s() == 30.0 and ask_queue() is None
    assert time.monotonic() - began < 10


def test_how_a_partition_is_preempted(programs: Callable[..., None]) -> None:
    programs(
        scontrol='[ "$*" = "show partition -o gpu" ] && echo "PartitionName=gpu GraceTime=0 PreemptMode=CANCEL"'
    )
    assert scontrol.preemption("gpu") == ("CANCEL", "0")
    assert scontrol.preemption("other") == ("", "")
