"""The agent of a node, with a Ray that is a script: what it refuses, and that nothing of it is left."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from momu_dist.launch.node import MARK, Agent, Orders, Refused
from momu_dist.launch.ports import plan
from momu_dist.train.scratch import take

RAY = """#!/usr/bin/env bash
echo "$@" > {args}
mktemp > {args}.temporary
# what Ray does: processes in sessions of their own
setsid sleep 98765 > /dev/null & setsid sleep 98765 > /dev/null &
{behaviour}
"""


# An agent that waits a second for the launcher's last word, and not ten, and as long for a file.
IMPATIENT = (
    "import sys; from momu_dist.launch import node; node.LAUNCHER_S = node.UNSEEN_S = 1.0; "
    "sys.exit(node.main(sys.argv[1:]))"
)


class Played:
    """An agent that was started, as srun does it; nobody answers an impatient one that fails."""

    def __init__(self, tmp_path: Path, behaviour: str, impatient: bool = False, **changed: object) -> None:
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
            "restart": 1,
            "node": "n1",
            "head": "n1",
            "head_ip": "127.0.0.1",
            "cpus": 2,
            "workers": 1,
            "worker_cpus": 1.5,
            "first_port": plan(os.getpid()).first,
            "temp": str(self.temp),
            "needed": (str(tmp_path),),
            "signs": (),
            "staged": (),
            "kept_logs": str(tmp_path / "kept"),
            "kill_wait_s": 4.0,
        }
        self.orders = Orders(**{**facts, **changed})  # type: ignore[arg-type]
        program = ("-c", IMPATIENT) if impatient else ("-m", "momu_dist.launch.node")
        # The package is found as this test finds it, whatever the name of the interpreter.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [bin / "python", "-u", *program, self.orders.text()],
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

    def play(behaviour: str, impatient: bool = False, **changed: object) -> Played:
        made.append(Played(tmp_path, behaviour, impatient, **changed))
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


def test_temporary_files_of_ray_go_with_the_folder_of_the_job(played: Play) -> None:
    agent = played(STARTS)
    agent.heard("joined")
    left = Path(agent.args.with_suffix(".temporary").read_text().strip())
    assert left.is_relative_to(agent.temp) and left.is_file()
    agent.stdin().close()
    assert agent.process.wait(15) == 0 and not left.exists()


def test_sigint_to_all_processes_of_a_job_ends_no_agent(played: Play) -> None:
    """Otherwise it would leave its Ray and its folder."""
    agent = played(STARTS)
    agent.heard("joined")
    agent.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        agent.process.wait(2)
    agent.stdin().close()
    assert agent.process.wait(15) == 0
    assert not agent.temp.exists() and not sleepers()


def test_ray_that_ends_is_told(played: Play) -> None:
    agent = played("echo 'Ray runtime started.'; sleep 0.5; exit 3", impatient=True)
    assert "Ray ended with exit code 3" in str(agent.heard("failed")["why"])
    assert agent.process.wait(15) == 1
    assert not agent.temp.exists() and not sleepers()


def test_ray_that_does_not_start_is_told(played: Play) -> None:
    agent = played("echo no; exit 1", impatient=True)
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


def test_a_folder_of_the_same_name_that_is_another_one_is_refused(played: Play, tmp_path: Path) -> None:
    agent = played(STARTS, impatient=True, signs=(str(tmp_path / ".momu-1"),))
    assert f"{tmp_path} is another one than on n1" in str(agent.heard("failed")["why"])
    assert not agent.args.exists()


def test_a_network_file_system_may_show_a_new_file_late(played: Play, tmp_path: Path) -> None:
    there, late = tmp_path / ".momu-1", tmp_path / "latents" / ".momu-1"
    late.parent.mkdir()
    there.write_text("1")
    threading.Timer(6.0, late.write_text, ("1",)).start()
    began = time.monotonic()
    played(STARTS, signs=(str(there), str(late))).heard("joined")
    assert time.monotonic() - began > 5.9


def test_a_fault_of_the_agent_is_told_and_leaves_nothing(played: Play) -> None:
    agent = played(STARTS, impatient=True, cpus="many")
    assert agent.heard("failed")["why"]
    assert agent.process.wait(15) == 1
    assert not agent.temp.exists()


def test_a_disk_that_nodes_share_is_refused_and_the_folder_of_the_other_stays(
    played: Play, tmp_path: Path
) -> None:
    other = take(tmp_path / "node", "n2")
    agent = played(STARTS, impatient=True)
    assert "is there already" in str(agent.heard("failed")["why"])
    assert agent.process.wait(15) == 1
    assert (tmp_path / "node" / "node").read_text() == "n2" and not agent.args.exists()
    other.close()


def test_what_killed_jobs_left_on_the_node_is_removed(played: Play, tmp_path: Path) -> None:
    name = f"momu-{os.getuid()}"
    killed, other_node, running = (tmp_path / f"{name}-{number}" for number in (1, 2, 3))
    take(killed, "n1").close()
    take(other_node, "n2").close()
    lock = take(running, "n1")
    agent = played(STARTS, temp=str(tmp_path / f"{name}-4"))
    agent.heard("joined")
    assert not killed.exists() and other_node.is_dir() and running.is_dir()
    lock.close()


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


def agent_of(tmp_path: Path) -> Agent:
    """An agent of n2."""
    return Agent(
        Orders(
            7,
            "7",
            1,
            "n2",
            "n1",
            "10.0.0.1",
            4,
            1,
            1.5,
            plan(7).first,
            str(tmp_path / "x"),
            (),
            None,
            (),
            "",
            30.0,
        )
    )


@pytest.mark.parametrize(("words", "answered"), [("keep logs\n", True), ("", False)])
def test_a_launcher_without_a_last_word_did_not_mean_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, answered: bool
) -> None:
    agent = agent_of(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(words))
    agent._follow_launcher()
    assert (agent.answered.is_set(), agent.orphaned) == (answered, not answered)
    assert agent.stopped.is_set() and agent.keep_logs is answered


@pytest.mark.parametrize(("head", "asked"), [("n0", True), ("n1", False)])
def test_an_agent_that_nobody_answers_sees_to_the_job_unless_its_node_leads(
    played: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, asked: bool
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho JobId=1 JobState=CANCELLED EndTime=x\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    agent = played(STARTS, impatient=True, head=head, needed=("/nowhere/shared",))
    assert agent.process.wait(15) == 1
    assert (tmp_path / "asked").exists() is asked


def test_shards_are_copied_without_latents(played: Play, tmp_path: Path) -> None:
    data, target = shards_of(tmp_path), tmp_path / "node" / "data"
    agent = played(STARTS, staged=((str(data), str(target)),))
    agent.heard("joined")
    copied = [str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()]
    assert sorted(copied) == ["manifest.json", "train/00000.parquet", "train/00001.parquet"]
    assert (target / "train" / "00001.parquet").read_text() == "rows"


def shards_of(folder: Path) -> Path:
    """A prepared set with latents and a lock in it."""
    data = folder / "data"
    for name in (
        ".lock",
        "manifest.json",
        "train/00000.parquet",
        "train/00001.parquet",
        "latents/x/latents.json",
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("rows")
    return data


def stages(tmp_path: Path) -> Agent:
    """An agent that copies shards to its own disk."""
    data, temp = str(shards_of(tmp_path)), tmp_path / "node"
    temp.mkdir()
    return Agent(replace(agent_of(tmp_path).orders, temp=str(temp), staged=((data, f"{temp}/shards"),)))


def test_copying_ends_with_the_first_file_that_fails_and_names_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def full(source: Path, target: Path) -> None:
        tried.append(str(source))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(Refused, match="No space left on device") as refused:
        stages(tmp_path)._stage()
    assert len(tried) == 1 and str(refused.value).count("No space left") == 1


def test_room_is_looked_for_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 95, 5))
    with pytest.raises(Refused, match=r"0\.00 GB are free there.*make room"):
        stages(tmp_path)._stage()
    assert not (tmp_path / "node" / "shards").exists()
