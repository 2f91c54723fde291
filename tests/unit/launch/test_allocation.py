"""What a job reads of its allocation; scontrol is played by a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.errors import ConfigError, MomuError
from momu_dist.launch.allocation import forget_other_jobs, per_node, read_allocation
from momu_dist.launch.machine import gpus_given, memory_mb
from momu_dist.launch.scontrol import JobFacts


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$3" = "n[1-2]" ] && echo n1 && echo n2\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_an_allocation_is_read_of_what_the_controller_and_the_job_itself_say(scontrol: None) -> None:
    env = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
        # Of the job that this one was submitted in.
        "SLURM_ARRAY_JOB_ID": "3",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_RESTART_COUNT": "5",
    }
    found = read_allocation(JobFacts("RUNNING", restarts=2, slurm_id="11_1"), env)
    assert (found.job_id, found.slurm_id, found.restart) == (12, "11_1", 2)
    assert (found.nodes, found.cpus, found.head) == (("n1", "n2"), (4, 4), "n1")


def test_a_job_that_slurm_tells_nothing_of_is_not_run(scontrol: None) -> None:
    """It would requeue, or take the ports of, another one."""
    with pytest.raises(
        MomuError, match=r"nothing of job 12 within 600 s \(socket timed out\); submit it again"
    ):
        read_allocation(JobFacts(complaint="socket timed out"), {"SLURM_JOB_ID": "12"})


OF_A_JOB = {
    "SLURM_JOB_GPUS": "0,1", "SLURM_STEP_GPUS": "0,1", "SLURM_GPUS_ON_NODE": "2", "SLURM_MEM_PER_NODE": "9000",
    "SLURM_MEM_PER_CPU": "900",
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "left", "gpus"),
    [
        (JobFacts("RUNNING", gpus=True, memory_per=frozenset({"NODE"})), OF_A_JOB.keys() - {"SLURM_MEM_PER_CPU"}, 2),
        (JobFacts("RUNNING", memory_per=frozenset({"CPU"})), {"SLURM_MEM_PER_CPU"}, 0),
        (JobFacts("RUNNING"), set(), 0),
    ],
)  # fmt: skip
def test_what_a_job_was_not_given_is_of_the_job_it_was_submitted_in(
    facts: JobFacts, left: set[str], gpus: int
) -> None:
    env = {**OF_A_JOB, "SLURM_JOB_ID": "12"}
    forget_other_jobs(facts, env)
    assert env.keys() == {"SLURM_JOB_ID", *left} and gpus_given(env) == gpus


def test_numbers_by_node() -> None:
    assert per_node("4(x2),8", 3) == (4, 4, 8)
    for text, nodes in (("4(x2)", 3), ("", 1), ("four", 1)):
        with pytest.raises(ConfigError, match="SLURM_JOB_CPUS_PER_NODE"):
            per_node(text, nodes)


def test_gpus_that_were_given() -> None:
    assert gpus_given({}) == 0
    assert gpus_given({"CUDA_VISIBLE_DEVICES": "0,3", "SLURM_JOB_GPUS": "0,1,2,3"}) == 2
    assert gpus_given({"ROCR_VISIBLE_DEVICES": "1", "SLURM_GPUS_ON_NODE": "1"}) == 1
    assert gpus_given({"SLURM_STEP_GPUS": "0", "SLURM_JOB_GPUS": "0,1"}) == 1
    assert gpus_given({"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_GPUS_ON_NODE": "0"}) == 0
    assert gpus_given({"SLURM_GPUS_ON_NODE": "4"}) == 4
    for of_the_shell in ("-1", "0", "0,1"):
        assert gpus_given({"CUDA_VISIBLE_DEVICES": of_the_shell}) == 0
    assert gpus_given({"CUDA_VISIBLE_DEVICES": "-1", "SLURM_GPUS_ON_NODE": "2"}) == 2


def test_memory_is_the_least_of_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/slurm/job_1\n0::/slurm\n")
    assert memory_mb(4, {}, tmp_path) == 16384
    assert memory_mb(4, {"SLURM_MEM_PER_CPU": "1000"}, tmp_path) == 4000
    assert memory_mb(4, {"SLURM_MEM_PER_NODE": "8000"}, tmp_path) == 8000
    assert memory_mb(4, {"SLURM_MEM_PER_GPU": "3000", "SLURM_GPUS_ON_NODE": "2"}, tmp_path) == 6000
    assert memory_mb(4, {"SLURM_MEM_PER_NODE": "0"}, tmp_path) == 16384
    limit = tmp_path / "sys/fs/cgroup/memory/slurm"
    limit.mkdir(parents=True)
    (limit / "memory.limit_in_bytes").write_text(str(3000 * 2**20))
    assert memory_mb(4, {"SLURM_MEM_PER_NODE": "8000"}, tmp_path) == 3000
    second = tmp_path / "sys/fs/cgroup/slurm"
    second.mkdir(parents=True)
    (second / "memory.max").write_text("max")
    assert memory_mb(4, {}, tmp_path) == 3000
    (second / "memory.max").write_text(str(2000 * 2**20))
    assert memory_mb(4, {}, tmp_path) == 2000
