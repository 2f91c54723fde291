"""The cluster that the other tests of this folder use is what they take it for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab import Lab

pytestmark = pytest.mark.slurm


def script(folder: Path, *lines: str) -> str:
    path = folder / "job.sh"
    path.write_text("\n".join(("#!/bin/bash", *lines, "")))
    return str(path)


def test_nodes_have_names_and_folders_of_their_own(lab: Lab, tmp_path: Path) -> None:
    ran = lab.run("srun", "-N2", "--ntasks-per-node=1", "sh", "-c", 'hostname | tee "/tmp/$(hostname)"')
    assert sorted(ran.stdout.split()) == ["node1", "node2"]
    assert [lab.files(node, "node*") for node in lab.nodes] == [["/tmp/node1"], ["/tmp/node2"]]
    assert not Path("/tmp/node1").exists()
    (tmp_path / "seen").write_text("by all")
    for node in lab.nodes:
        assert lab.on_node(node, "cat", str(tmp_path / "seen")).stdout == "by all"


def test_accounting_knows_how_jobs_ended(lab: Lab, tmp_path: Path) -> None:
    good = lab.sbatch(script(tmp_path, "hostname"), cwd=tmp_path)
    assert lab.wait(good, "COMPLETED") and lab.exit_code(good) == "0:0"
    assert (tmp_path / f"slurm-{good}.out").read_text() == "node1\n"
    bad = lab.sbatch(script(tmp_path, "exit 7"), cwd=tmp_path)
    assert lab.wait(bad, "FAILED") and lab.exit_code(bad) == "7:0"
    assert lab.accounting(bad) == [("FAILED", "7:0")]


def test_what_is_left_on_a_node_is_seen(lab: Lab) -> None:
    listen = "import socket, time; s = socket.create_server(('', 7123)); time.sleep(300)"
    pid = lab.on_node("node2", "sh", "-c", f'python3 -c "{listen}" > /dev/null 2>&1 & echo $!').stdout.strip()
    until = time.monotonic() + 10
    while lab.listening("node2") != {7123}:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert ["7123" in command for command in lab.processes("node2")] == [True]
    assert lab.listening("node1") == set()
    lab.on_node("node2", "kill", pid)
    time.sleep(0.5)
    assert lab.processes("node1") == lab.processes("node2") == []


def test_an_urgent_job_sends_another_back_to_the_queue(lab: Lab, tmp_path: Path) -> None:
    lines = ("echo start ${SLURM_RESTART_COUNT:-0}", '[ "${SLURM_RESTART_COUNT:-0}" = 1 ] || sleep 300')
    job = lab.sbatch("-N2", "--exclusive", script(tmp_path, *lines), cwd=tmp_path)
    lab.wait(job, "RUNNING")
    lab.run("srun", "-p", "urgent", "-N2", "--exclusive", "true")
    assert lab.wait(job, "COMPLETED") and lab.exit_code(job) == "0:0"
    assert (tmp_path / f"slurm-{job}.out").read_text().count("start 1") == 1
    assert lab.accounting(job) == [("PREEMPTED", "0:0"), ("COMPLETED", "0:0")]


def test_a_node_without_power_is_down_until_it_is_back_and_a_time_limit_can_be_moved(
    lab: Lab, tmp_path: Path
) -> None:
    """Both are waited for at once: SLURM looks at limits, and holds a node for down, about every half minute."""
    job = lab.sbatch("-t", "60", "-w", "node1", script(tmp_path, "exec sleep 300"), cwd=tmp_path)
    lab.wait(job, "RUNNING")
    lab.power_off("node2")
    lab.set_end(job, 1)
    lab.wait_node("node2", "down")
    assert lab.processes("node2") == []
    lab.power_on("node2")
    lab.wait_node("node2", "idle")
    assert lab.run("srun", "-w", "node2", "hostname").stdout == "node2\n"
    assert lab.wait(job, "TIMEOUT", timeout=60) == "TIMEOUT"
