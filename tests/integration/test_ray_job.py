"""`ray job submit -- python -m momu_dist.train ...` on a real cluster, with and without a working directory."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from momu_dist.data.manifest import Manifest

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
START_LIMIT_S = 120
JOB_LIMIT_S = 300


@dataclass(frozen=True)
class Cluster:
    """A running head node, and the environment in which a user would talk to it."""

    dashboard: str
    env: dict[str, str]

    def submit(
        self, arguments: list[str], config: str, overrides: list[str]
    ) -> subprocess.CompletedProcess[str]:
        command = [str(RAY), "job", "submit", "--address", self.dashboard, *arguments, "--", sys.executable]
        command += ["-m", "momu_dist.train", "--config", config, *overrides]
        return subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=JOB_LIMIT_S)


def free_ports(n: int) -> list[int]:
    listeners = [socket.socket() for _ in range(n)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="mj-", dir="/tmp")
    port, dashboard, client = free_ports(3)
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    # Otherwise Ray starts a process for each CPU in advance, none of which a training can take.
    env["RAY_prestart_worker_first_driver"] = "0"
    command = [str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += [
        f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1",
        f"--ray-client-server-port={client}",
    ]
    command += ["--num-cpus=8", "--object-store-memory=300000000", f"--temp-dir={folder}"]
    log = Path(folder) / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    cluster = Cluster(f"http://127.0.0.1:{dashboard}", env)
    try:
        wait_until_up(cluster, head, log)
        yield cluster
    finally:
        # It alone: told so, it ends its processes in order. All at once, it waits half a minute for those that are gone.
        head.terminate()
        try:
            head.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_up(cluster: Cluster, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    listing = [str(RAY), "job", "list", "--address", cluster.dashboard]
    while time.monotonic() < deadline:
        assert head.poll() is None, f"the head node ended: {log.read_text()}"
        if subprocess.run(listing, env=cluster.env, capture_output=True).returncode == 0:
            return
        time.sleep(1)
    pytest.fail(f"no cluster after {START_LIMIT_S} s: {log.read_text()}")


def overrides(prepared: Manifest, out: Path) -> list[str]:
    return [
        f"out={out}",
        f"data.root={prepared.root}",
        "data.length_s=[2.0, 2.0]",
        "train.strategy=zero1",
        "train.workers=2",
        "train.max_steps=2",
        "train.global_batch=4",
        "train.checkpoint_every=2",
        "train.max_failures=0",
        "tracking.uri=none",
        "model.ch_mult=[1, 1]",
        "model.num_res_blocks=1",
    ]


def test_without_a_working_directory(cluster: Cluster, prepared: Manifest, tmp_path: Path) -> None:
    config = str(REPOSITORY / "configs/demo/music_vae.yaml")
    job = cluster.submit([], config, overrides(prepared, tmp_path / "runs"))
    assert job.returncode == 0, job.stdout[-3000:] + job.stderr[-3000:]
    assert (tmp_path / "runs" / "music_vae" / "export" / "model.safetensors").is_file()


def test_with_a_working_directory(cluster: Cluster, prepared: Manifest, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for part in ("momu_dist", "configs"):
        shutil.copytree(REPOSITORY / part, work / part, ignore=shutil.ignore_patterns("__pycache__"))
    there = ["--working-dir", str(work)]
    job = cluster.submit(there, "configs/demo/music_vae.yaml", overrides(prepared, tmp_path / "runs"))
    assert job.returncode == 0, job.stdout[-3000:] + job.stderr[-3000:]
    assert (tmp_path / "runs" / "music_vae" / "export" / "model.safetensors").is_file()

    lost = cluster.submit(there, "configs/demo/music_vae.yaml", overrides(prepared, Path("runs")))
    said = lost.stdout + lost.stderr
    assert lost.returncode != 0
    assert "out is the relative path 'runs'" in said
    assert "give an absolute path" in said
