"""Ray on the nodes of an allocation: an agent on each, by srun; brought up together, watched, ended together."""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from momu_dist.errors import ConfigError, MomuError
from momu_dist.launch.allocation import Allocation
from momu_dist.launch.children import Child, end_all
from momu_dist.launch.facts import RayOfJob
from momu_dist.launch.node import END_S, HEAD_S, KEEP_LOGS, MARK, RAY_S, RAY_STARTS, STOP, Orders
from momu_dist.launch.policy import for_the_user
from momu_dist.launch.ports import PortPlan
from momu_dist.launch.srun import srun, step_env
from momu_dist.launch.status import RAY, TOKEN
from momu_dist.launch.work import Work

STATES = ("starting", "ready", "staged", "joined")
"""What a node comes to, in this order."""
SILENT_S = 60.0
"""After so long without a word a node counts as lost."""
STOOD_STILL_S = 15.0
"""If so long passes between two looks, this process was stopped, as by `scontrol suspend`, or waited for a disk."""
CHECKS_S = 60.0
"""How long a node may take to start its agent and check itself."""

# What Ray's processes want to know, on every node.
RAY_ENV = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray would wait half a minute for its tasks before it ends.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # Ray Train gives its processes an environment of their own: those that Ray starts in advance are never taken.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
    "RAY_worker_maximum_startup_concurrency": "1000",
    # A node that cannot reach the head's Ray for so long gives up, and its agent sees to the job.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",
    # Here SLURM says when a node will be taken away, and the launcher hears it.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
}


class NodeFailure(MomuError):
    """A node that could not take part, or no longer does."""


@dataclass
class Node:
    """One node of the job, as its agent tells of it."""

    name: str
    agent: Child
    log: Path
    state: str = "starting"
    why: str = ""
    facts: dict[str, Any] | None = None
    heard: float = field(default_factory=time.monotonic)

    @property
    def silent(self) -> bool:
        """Whether it has said nothing for too long: gone and back before SLURM noticed, or cut off."""
        return self.state == "joined" and time.monotonic() - self.heard > SILENT_S

    @property
    def lost(self) -> bool:
        """Whether it takes no part any more. The srun of a node that died ends too, with exit code 0."""
        return self.state == "failed" or self.silent or self.agent.code is not None

    def failure(self) -> str:
        """Return why it is lost."""
        if self.why:
            return self.why
        if self.silent:
            return f"it has said nothing for {SILENT_S:.0f} s"
        lines: list[str] = []
        with suppress(OSError):
            lines = [
                line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()
            ]
        return (
            f"srun ended with exit code {self.agent.code}: {lines[-1] if lines else f'its log is {self.log}'}"
        )


class RayCluster:
    """Ray on all nodes of an allocation. `temp` is its folder on each node, `folder` the job's own, shared."""

    def __init__(
        self, allocation: Allocation, ports: PortPlan, folder: Path, temp: str, site_env: Mapping[str, str]
    ) -> None:
        self.allocation = allocation
        self.ports = ports
        self.folder = folder
        self.temp = temp
        self.nodes: dict[str, Node] = {}
        self.ended = False
        self._changed = threading.Event()
        self.head_ip = address_of(allocation.head, others=allocation.nodes[1:])
        self.token = folder / TOKEN
        self.env = {
            **{name: value for name, value in step_env().items() if not name.startswith("RAY_")},
            **RAY_ENV,
            **site_env,  # it is in step_env() too; here for what it sets of Ray
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            # Node-local, should DeepSpeed compile anything: nodes with other processors must not share it.
            "TORCH_EXTENSIONS_DIR": f"{temp}/torch_extensions",
        }
        self.warned = False
        self._looked = time.monotonic()

    @property
    def address(self) -> str:
        return f"{self.head_ip}:{self.ports.gcs}"

    def start(self, work: Work, signs: Sequence[Path], kill_wait_s: float) -> None:
        """Start the agents; `wait_for` waits for them. Each looks for `signs`, a file in each folder that is written to."""
        write_secret(self.token, secrets.token_hex(32))
        names = self.allocation.nodes
        for name, cpus in zip(names, self.allocation.cpus, strict=True):
            restart = self.allocation.restart
            orders = Orders(
                job_id=self.allocation.job_id, slurm_id=self.allocation.slurm_id, restart=restart, node=name,
                head=self.allocation.head, head_ip=self.head_ip, cpus=cpus,
                workers=math.ceil(work.workers / len(names)), worker_cpus=work.worker_cpus,
                first_port=self.ports.first, temp=self.temp, needed=work.needed,
                signs=tuple(map(str, signs)), staged=work.staged,
                kept_logs=str(self.folder / f"ray-{name}.r{restart}"), kill_wait_s=kill_wait_s,
            )  # fmt: skip
            step = srun(1, cpus, "--overlap", f"--nodelist={name}", "--unbuffered", "--quiet")
            command = [*step, sys.executable, "-u", "-m", "momu_dist.launch.node", orders.text()]
            log = self.folder / f"{name}.r{restart}.log"
            self.nodes[name] = Node(name, Child(name, command, self.env, self._hears(name, log)), log)

    def _hears(self, name: str, log: Path) -> Callable[[str], None]:
        file = log.open("a", buffering=1)

        def heard(line: str) -> None:
            if not line.startswith(MARK):
                file.write(line + "\n")
                return
            facts = json.loads(line.removeprefix(MARK))
            node = self.nodes[name]
            node.heard = time.monotonic()
            self.warned = self.warned or facts.pop("warned", False)
            node.state = facts.pop("state", node.state)
            node.why = facts.pop("why", node.why)
            node.facts = node.facts or facts or None
            self._changed.set()

        return heard

    def wait_for(self, state: str, check: Callable[[], None]) -> None:
        """Wait until every node has come to `state`, calling `check` meanwhile; NodeFailure names the first that does not.

        Copying shards takes as long as it takes.
        """
        seconds = {"ready": CHECKS_S, "staged": math.inf, "joined": HEAD_S + RAY_STARTS * RAY_S}[state]
        until = time.monotonic() + seconds
        while True:
            check()  # first: a job that is ended loses its nodes too
            until += self._forgive_standstill()
            for node in self.lost():
                raise NodeFailure(f"{node.name}: {node.failure()}")
            waiting = [node for node in self.nodes.values() if node.state in STATES[: STATES.index(state)]]
            if not waiting:
                return
            if time.monotonic() > until:
                names = ", ".join(node.name for node in waiting)
                raise NodeFailure(
                    f"{names}: not {state} within {seconds:.0f} s; see the logs in {self.folder}"
                )
            self._changed.wait(0.1)
            self._changed.clear()

    def write_address(self) -> None:
        """Leave what others need to reach this Ray, for its owner's eyes only."""
        ray = RayOfJob(
            head=self.allocation.head,
            address=self.address,
            dashboard=f"http://127.0.0.1:{self.ports.dashboard}",
            token_file=str(self.token),
        )
        write_secret(self.folder / RAY, ray.model_dump_json(indent=2))

    def _forgive_standstill(self) -> float:
        """Return for how long this process stood still since the last look, time in which it may have heard no node."""
        before, self._looked = self._looked, time.monotonic()
        passed = self._looked - before
        if passed < STOOD_STILL_S:
            return 0.0
        for node in self.nodes.values():
            # Those who listen may have heard it meanwhile: then its silence begins now, and not in the future.
            node.heard = min(self._looked, node.heard + passed)
        return passed

    def lost(self) -> list[Node]:
        """Return the nodes that no longer take part; to be asked all the time, as what it missed is no node's silence."""
        self._forgive_standstill()
        return [node for node in self.nodes.values() if node.lost]

    def room_for(self, worker_cpus: float) -> int:
        """Return how many training workers the nodes that are left can hold."""
        left = [node.facts for node in self.nodes.values() if node.facts and not node.lost]
        return sum(int(facts["gpus"] or facts["cpus"] // worker_cpus) for facts in left)

    def total(self, resource: str) -> int:
        """Return how much of `cpus`, `gpus` or `memory_mb` the nodes have together."""
        return sum(int(node.facts[resource]) for node in self.nodes.values() if node.facts)

    def end(self, keep_logs: bool) -> None:
        """End all agents together and forget the token; Ray's logs are kept where something went wrong."""
        if self.ended:
            return
        self.ended = True
        for node in self.nodes.values():
            node.agent.close(f"{KEEP_LOGS if keep_logs else STOP}\n")
        end_all([node.agent for node in self.nodes.values()], END_S + 2.0)
        with suppress(OSError):  # of a Ray that is gone: nothing can be entered by it
            forget_secrets(self.folder)


@contextmanager
def signed(folders: Sequence[Path], job_id: int) -> Iterator[list[Path]]:
    """A file of a job in each of `folders`, by which its nodes know that they see the same ones."""
    signs = [folder / f".momu-{job_id}" for folder in folders]
    try:
        for sign in signs:
            sign.write_text(f"{job_id}\n")
        yield signs
    finally:
        for sign in signs:
            with suppress(OSError):
                sign.unlink()


def address_of(node: str, others: Sequence[str]) -> str:
    """Return the IP address of `node`, this machine, by which the others reach it.

    A fault that may pass, as of a name server that is busy, is raised as it is: it is nothing for a user to mend.
    """
    faults: list[OSError] = []
    try:
        found = socket.gethostbyname(node)
        if not found.startswith("127."):
            return found
    except OSError as error:
        faults.append(error)
    for other in others:  # Debian's /etc/hosts names the own host by a loopback address
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((other, 9))
                return str(probe.getsockname()[0])
        except OSError as error:
            faults.append(error)
    if not others:
        return "127.0.0.1"
    for fault in faults:
        if not for_the_user(fault):
            raise fault
    raise ConfigError(
        f"no IPv4 address of {node} was found by which {others[0]} could reach it, nor one of {others[0]}'s: the names of a "
        "job's nodes must mean IPv4 addresses."
    )


def forget_secrets(folder: Path) -> None:
    """Remove how a job's Ray is entered, also that of an attempt which was killed."""
    for name in (TOKEN, RAY):
        (folder / name).unlink(missing_ok=True)


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
