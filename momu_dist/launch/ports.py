"""Ports of a job's Ray: fixed by the job's id, so that two jobs on one node never meet, and checked by binding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from momu_dist.train.listening import try_listening

FIRST, END = (
    10_000,
    32_768,
)  # above what services of a system use, below the ports that Linux gives out by itself
PER_JOB = 200
WINDOWS = (END - FIRST) // PER_JOB
STRIDE = 29  # a job that is started again comes to ports that neither it nor its neighbours had


@dataclass(frozen=True)
class PortPlan:
    """The ports of one job on each of its nodes: `PER_JOB` from `first` on."""

    first: int

    def named(self) -> dict[str, int]:
        """Return the ports that have a service of their own, by Ray's names."""
        names = (
            "port",
            "dashboard-port",
            "ray-client-server-port",
            "node-manager-port",
            "object-manager-port",
            "runtime-env-agent-port",
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "metrics-export-port",
        )
        return {name: self.first + index for index, name in enumerate(names)}

    @property
    def gcs(self) -> int:
        return self.named()["port"]

    @property
    def dashboard(self) -> int:
        return self.named()["dashboard-port"]

    @property
    def workers(self) -> tuple[int, int]:
        """The first and the last port of Ray's worker processes."""
        return self.first + 10, self.first + PER_JOB - 1

    def __str__(self) -> str:
        named = ", ".join(f"{name} {port}" for name, port in self.named().items())
        return f"{named}, workers {self.workers[0]} to {self.workers[1]}"


def plan(job_id: int, restart: int = 0) -> PortPlan:
    """Return the ports of the `restart`-th start of a job."""
    return PortPlan(FIRST + PER_JOB * ((job_id + STRIDE * restart) % WINDOWS))


def busy(ports: Iterable[int]) -> list[int]:
    """Return those of `ports` that somebody on this machine listens on, at any address."""
    found = []
    for port in ports:
        try:
            try_listening("0.0.0.0", port)
        except OSError:
            found.append(port)
    return found


def busy_of(ports: PortPlan) -> list[int]:
    """Return the ports of a plan that are taken on this machine."""
    return busy(range(ports.first, ports.first + PER_JOB))
