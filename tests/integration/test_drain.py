"""A node that is drained: a checkpoint at once, and after its end the run goes on with the workers that are left."""

from __future__ import annotations

import dataclasses
import os
import secrets
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

from faults import Drill, Field, assert_every_sample_once, steps_logged
from momu_dist.train.checkpoint import newest_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

RAY = str(Path(sys.executable).parent / "ray")
NODES = "import ray; ray.init(log_to_driver=False); print(*(n['NodeID'] for n in ray.nodes() if n['Alive']))"


@dataclass
class Nodes:
    """A Ray of two nodes on this machine, each with room for one worker."""

    folder: str
    port: int
    env: dict[str, str]
    started: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [RAY, "start", "--block", "--num-cpus=2", "--object-store-memory=200000000", *arguments]
        log = (Path(self.folder) / f"node{len(self.started)}.log").open("wb")
        with log:
            self.started.append(
                subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
            )
        return self.started[-1]

    def alive(self) -> list[str]:
        result = subprocess.run(
            [sys.executable, "-c", NODES], env=self.env, capture_output=True, text=True, timeout=120
        )
        return result.stdout.split()

    def wait_for(self, n: int) -> list[str]:
        until = time.monotonic() + 120
        while len(found := self.alive()) != n:
            assert time.monotonic() < until, f"{len(found)} nodes, expected {n}"
            time.sleep(0.5)
        return found


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="md-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        env = {
            **os.environ,
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
            "OMP_NUM_THREADS": "1",
        }
        cluster = Nodes(folder, port, env)
        try:
            cluster.start(
                "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false",
                f"--temp-dir={folder}",
            )  # fmt: skip
            cluster.wait_for(1)
            yield cluster
        finally:
            for process in reversed(cluster.started):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
            for process in cluster.started:
                process.wait(60)


def test_a_drained_node_is_saved_for_and_the_run_goes_on_without_it(nodes: Nodes, field: Field) -> None:
    (head,) = nodes.alive()
    leaving = nodes.start(f"--address=127.0.0.1:{nodes.port}", "--node-ip-address=127.0.0.1")
    (node,) = set(nodes.wait_for(2)) - {head}
    more = (
        "train.max_steps=1000",
        "train.checkpoint_every=100000",
        "train.min_workers=1",
        "train.max_failures=2",
    )
    run = Drill(
        field.command("dit_a2m", "zero1", "drained", *more), field.root / "runs" / "drained", nodes.env
    )
    run.start()
    try:
        run.wait_for_step(5)
        drain = [RAY, "drain-node", f"--address=127.0.0.1:{nodes.port}", f"--node-id={node}"]
        drain += [
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=test",
            "--deadline-remaining-seconds=6",
        ]
        subprocess.run(drain, env=nodes.env, check=True, capture_output=True, timeout=60)
        run.wait_for(lambda: newest_checkpoint(run.run / "checkpoints"), "checkpoint")
        saved = newest_checkpoint(run.run / "checkpoints")
        assert saved is not None and saved.world_size == 2
        time.sleep(6)
        os.killpg(leaving.pid, signal.SIGKILL)
        text = run.finish()
    finally:
        run.close()
    assert "a machine will be taken away" in text
    assert f"goes on at step {saved.step} with 1 worker" in text, "no step before the notice is done again"
    assert steps_logged(run.run) == list(range(1, 1001))
    assert_every_sample_once(field, field.config("dit_a2m", "zero1", "drained", *more), run.run)
