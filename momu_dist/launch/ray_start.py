"""How Ray is started on one node of a job: its whole command line, with nothing left to be found out by Ray."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from momu_dist.launch.machine import shared_memory_mb
from momu_dist.launch.ports import PortPlan

STORE_SHARE = 0.8
"""Of what is free in /dev/shm, for Ray's objects."""
LEAST_STORE_MB = 100
"""Ray refuses less than 75 MiB. Where /dev/shm has no room for it, Ray takes its folder on the disk."""

_OF_HEAD = ("port", "dashboard-port", "ray-client-server-port")


def ray_command(
    ports: PortPlan, ip: str, head_ip: str | None, temp: str, resources: Mapping[str, int]
) -> list[str]:
    """Return the command that starts Ray at `ip`, joining the head at `head_ip`, or as the head where that is None.

    `resources` are the node's cpus, gpus and memory_mb.
    """
    store = min(int(0.3 * resources["memory_mb"]), int(STORE_SHARE * shared_memory_mb()))
    store = max(store, LEAST_STORE_MB)
    low, high = ports.workers
    given = {name: port for name, port in ports.named().items() if head_ip is None or name not in _OF_HEAD}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={ip}"]
    command += (
        ["--head", "--dashboard-host=127.0.0.1", "--include-dashboard=true"]
        if head_ip is None
        else [f"--address={head_ip}:{ports.gcs}"]
    )
    command += [f"--{name}={port}" for name, port in given.items()]
    return [
        *command,
        f"--min-worker-port={low}",
        f"--max-worker-port={high}",
        f"--num-cpus={resources['cpus']}",
        f"--num-gpus={resources['gpus']}",
        f"--memory={(resources['memory_mb'] - store) * 2**20}",
        f"--object-store-memory={store * 2**20}",
        f"--temp-dir={temp}",
        "--disable-usage-stats",
    ]
