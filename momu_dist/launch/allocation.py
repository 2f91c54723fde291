"""What SLURM gave to this job, read from the variables it sets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from momu_dist.errors import ConfigError
from momu_dist.launch.scontrol import hostnames


@dataclass(frozen=True)
class Allocation:
    """A job's nodes, the first of which runs the batch script, and what each has."""

    job_id: int
    job_name: str
    restart: int
    nodes: tuple[str, ...]
    cpus: tuple[int, ...]
    submit_dir: Path
    slurm_id: str
    """By which SLURM knows this job and no other: `12_3` for an element of an array, whose number alone may mean all of them."""

    @property
    def head(self) -> str:
        return self.nodes[0]


def read_allocation(env: Mapping[str, str] = os.environ) -> Allocation:
    """Return the allocation of the batch script that called; ConfigError outside one."""
    if "SLURM_JOB_ID" not in env or "SLURM_JOB_NODELIST" not in env:
        raise ConfigError(
            "no SLURM allocation: SLURM_JOB_ID is not set; submit with `sbatch jobs/train_dit.sh`, or train on this machine "
            "with `python -m momu_dist.train`."
        )
    nodes = hostnames(env["SLURM_JOB_NODELIST"])
    array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    return Allocation(
        job_id=int(env["SLURM_JOB_ID"]),
        job_name=env.get("SLURM_JOB_NAME", "momu"),
        restart=int(env.get("SLURM_RESTART_COUNT", "0")),
        nodes=nodes,
        cpus=per_node(env.get("SLURM_JOB_CPUS_PER_NODE", "1"), len(nodes)),
        submit_dir=Path(env.get("SLURM_SUBMIT_DIR", os.getcwd())),
        slurm_id=f"{array}_{task}" if array and task else env["SLURM_JOB_ID"],
    )


def per_node(text: str, nodes: int) -> tuple[int, ...]:
    """Return the numbers in SLURM's form by node, such as 4(x2),8."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise ConfigError(f"SLURM_JOB_CPUS_PER_NODE is {text!r}, expected the form 4(x2),8.")
        numbers += [int(match[1])] * int(match[2] or 1)
    if len(numbers) != nodes:
        raise ConfigError(
            f"SLURM_JOB_CPUS_PER_NODE {text!r} counts {len(numbers)} nodes, the job has {nodes}."
        )
    return tuple(numbers)
