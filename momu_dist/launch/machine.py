"""What this machine, or this job on it, has: memory, GPUs. Read from SLURM's variables, cgroups and /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def gpus_given(env: Mapping[str, str] = os.environ) -> int:
    """Return how many GPUs SLURM gave to this step on this node."""
    listed = [env[name] for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS") if env.get(name)]
    counted = int(env.get("SLURM_GPUS_ON_NODE") or 0)
    if not listed and not counted:
        return 0  # what other variables name is of the shell that submitted
    visible = [env.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")]
    for devices in (*visible, *listed):
        if devices not in ("", "NoDevFiles", "-1"):
            return len(devices.split(","))
    return counted


def memory_mb(cpus: int, env: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Return the MiB that this job may use on this node: the least of SLURM's, the cgroup's and the machine's."""
    units = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_CPU": cpus, "SLURM_MEM_PER_GPU": gpus_given(env)}
    said = [int(env.get(name) or 0) * count for name, count in units.items()]
    given = [amount for amount in said if amount][:1]  # of several the first is this job's
    return min([_mem_total(root), *_cgroup_limits(root), *given])


def shared_memory_mb(folder: Path = Path("/dev/shm")) -> int:
    """Return the free MiB of the file system that Ray's object store lies in."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize // 2**20


def _mem_total(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise OSError("/proc/meminfo names no MemTotal")


def _cgroup_limits(root: Path) -> list[int]:
    """The limits of this process's cgroup and those above it, version 1 or 2; absurdly large ones mean none."""
    found = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            if controllers
            else ("sys/fs/cgroup", "memory.max")
        )
        place = root / base / path.lstrip("/")
        for folder in (place, *place.parents):
            with suppress(OSError, ValueError):
                limit = int((folder / name).read_text()) // 2**20
                if limit < 2**33:
                    found.append(limit)
            if folder == root / base:
                break
    return found
