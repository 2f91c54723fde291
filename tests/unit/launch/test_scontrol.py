"""What is read of SLURM's answers; its programs are played by scripts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from momu_dist.errors import ConfigError
from momu_dist.launch import scontrol
from momu_dist.launch.queue import ask_queue


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """(lines by name of the program) -> programs of these names, and nothing else of SLURM."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    for name in ("scontrol", "scancel", "squeue"):
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
