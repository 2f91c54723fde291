"""The agent of a node, with a Ray that is a script: what it refuses, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from momu_dist.launch.node import MARK, Orders, ray_command
from momu_dist.launch.ports import plan

RAY = """#!/usr/bin/env bash
echo "$@" > {args}
# what Ray does: processes in sessions of their own
setsid sleep 98765 > /dev/null & setsid sleep 98765 > /dev/null &
{behaviour}
"""


class Played:
    """An agent that was started, as srun does it."""

    def __init__(self, tmp_path: Path, behaviour: str, **changed: object) -> None:
        # The agent takes the `ray` beside its Python.
        bin = tmp_path / "bin"
        bin.mkdir()
        (bin / "python").symlink_to(sys.executable)
        self.args = tmp_path / "args"
        (bin / "ray").write_text(RAY.format(args=self.args, behaviour=behaviour))
        (bin / "ray").chmod(0o755)
        self.temp = tmp_path / "node"
        facts = {
            "job_id": 4_000_000 + os.getpid() % 100,
            "slurm_id": "4000000",
            "node": "n1",
            "head": True,
            "head_ip": "127.0.0.1",
            "cpus": 2,
            "workers": 1,
            "worker_cpus": 1.5,
            "first_port": plan(os.getpid()).first,
            "temp": str(self.temp),
            "needed": (str(tmp_path),),
            "staged": (),
            "kept_logs": str(tmp_path / "kept"),
            "kill_wait_s": 4.0,
        }
        self.orders = Orders(**{**facts, **changed})  # type: ignore[arg-type]
        # The package is found as this test finds it, whatever the name of the interpreter.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [bin / "python", "-u", "-m", "momu_dist.launch.node", self.orders.text()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip

    def heard(self, state: str) -> dict[str, object]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                facts: dict[str, object] = json.loads(line.removeprefix(MARK))
                if facts["state"] == state:
                    return facts
        raise AssertionError(f"never {state}")

    def stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin


Play = Callable[..., Played]


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Play]:
    made: list[Played] = []

    def play(behaviour: str, **changed: object) -> Played:
        made.append(Played(tmp_path, behaviour, **changed))
        return made[-1]

    yield play
    for agent in made:
        if not agent.stdin().closed:
            agent.stdin().close()
        agent.process.wait(15)


def sleepers() -> list[str]:
    """What the played Ray left behind."""
    return subprocess.run(["pgrep", "-f", "^sleep 98765$"], capture_output=True, text=True).stdout.split()


STARTS = "echo 'Ray runtime started.'; exec sleep 98765"


def test_it_lives_as_long_as_its_input_and_leaves_nothing(played: Play) -> None:
    agent = played(STARTS)
    assert agent.heard("ready")["cpus"] == 2
    agent.heard("joined")
    assert agent.temp.is_dir() and agent.temp.stat().st_mode & 0o777 == 0o700
    agent.stdin().close()
    assert agent.process.wait(15) == 0
    assert not agent.temp.exists()
    assert not sleepers()


def test_ray_that_ends_is_told(played: Play) -> None:
    agent = played("echo 'Ray runtime started.'; sleep 0.5; exit 3")
    assert "Ray ended with exit code 3" in str(agent.heard("failed")["why"])
    assert agent.process.wait(15) == 1
    assert not agent.temp.exists() and not sleepers()


def test_ray_that_does_not_start_is_told(played: Play) -> None:
    agent = played("echo no; exit 1")
    assert "while it started" in str(agent.heard("failed")["why"])
    assert agent.process.wait(15) == 1


def test_a_port_in_use_is_refused(played: Play) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", plan(os.getpid()).gcs))
        other.listen()
        agent = played(STARTS)
        why = str(agent.heard("failed")["why"])
    assert str(plan(os.getpid()).gcs) in why and "in use" in why
    assert not agent.args.exists()


def test_a_missing_shared_folder_is_refused(played: Play) -> None:
    agent = played(STARTS, needed=("/nowhere/shared",))
    assert "/nowhere/shared is not there" in str(agent.heard("failed")["why"])


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """(state) -> from now on the controller has every job in it."""

    def says(state: str) -> None:
        scontrol = tmp_path / "scontrol"
        scontrol.write_text(f"#!/bin/sh\necho JobId=1 JobState={state} EndTime=x\n")
        scontrol.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return says


def test_sigterm_of_a_job_that_slurm_ends_is_obeyed_before_sigkill(
    played: Play, slurm_says: Callable[[str], None]
) -> None:
    slurm_says("CANCELLED")
    agent = played(STARTS)
    agent.heard("joined")
    began = time.monotonic()
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(10) == 0
    assert time.monotonic() - began < agent.orders.kill_wait_s


@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING"])
def test_sigterm_of_a_job_with_a_time_of_grace_is_left_to_the_launcher(
    played: Play, slurm_says: Callable[[str], None], state: str
) -> None:
    slurm_says(state)
    agent = played(STARTS)
    agent.heard("joined")
    agent.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        agent.process.wait(3)
    agent.stdin().close()
    assert agent.process.wait(15) == 0


def test_shards_are_copied_without_latents(played: Play, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "latents").mkdir(parents=True)
    (data / "shard.parquet").write_text("rows")
    target = tmp_path / "node" / "data"
    agent = played(STARTS, staged=((str(data), str(target)),))
    agent.heard("joined")
    assert [path.name for path in target.iterdir()] == ["shard.parquet"]


def test_ray_is_told_everything() -> None:
    orders = Orders(
        7, "7", "n2", False, "10.0.0.1", 4, 1, 1.5, plan(7).first, "/tmp/momu-0-7", (), (), "/kept", 30.0
    )
    command = ray_command(orders, plan(7), "10.0.0.2", {"cpus": 4, "gpus": 2, "memory_mb": 8000})
    assert f"--address=10.0.0.1:{plan(7).gcs}" in command and "--head" not in command
    assert "--num-cpus=4" in command and "--num-gpus=2" in command and "--temp-dir=/tmp/momu-0-7" in command
    assert not any(part.startswith("--dashboard-port") for part in command)
    head = ray_command(
        Orders(**{**vars(orders), "head": True}),
        plan(7),
        "10.0.0.1",
        {"cpus": 4, "gpus": 0, "memory_mb": 8000},
    )
    assert "--dashboard-host=127.0.0.1" in head and f"--port={plan(7).gcs}" in head
