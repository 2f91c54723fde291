"""What SLURM gave to this job: as its controller has it, and as its variables say where those are of this job."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from momu_dist.errors import ConfigError, GivenUp
from momu_dist.launch.scontrol import ANSWER_S, JobFacts, hostnames


@dataclass(frozen=True)
class Allocation:
    """A job's nodes, the first of which runs the batch script, and what each has."""

    job_id: int
    restart: int
    nodes: tuple[str, ...]
    cpus: tuple[int, ...]
    slurm_id: str
    """By which SLURM knows this job and no other; see JobFacts."""

    @property
    def head(self) -> str:
        return self.nodes[0]


def read_allocation(facts: JobFacts, env: Mapping[str, str] = os.environ) -> Allocation:
    """Return the allocation of the batch script that called, from its own facts; GivenUp where SLURM does not tell them."""
    job = env["SLURM_JOB_ID"]
    if not facts.state:
        raise GivenUp(
            f"the controller of SLURM says nothing of job {job} within {ANSWER_S:.0f} s ({facts.complaint}); submit it again "
            "once `scontrol show job` answers on the nodes."
        )
    # SLURM sets these two anew for every job. SLURM_ARRAY_* and SLURM_RESTART_COUNT may be of a job this one was submitted in.
    nodes = hostnames(env["SLURM_JOB_NODELIST"])
    cpus = per_node(env.get("SLURM_JOB_CPUS_PER_NODE", "1"), len(nodes))
    return Allocation(int(job), facts.restarts, nodes, cpus, facts.slurm_id)


def forget_other_jobs(facts: JobFacts, env: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables of GPUs and memory that are not of the job with these facts.

    sbatch hands on those of a job that it is called in, and SLURM sets anew only those of what the new one has.
    """
    names = [] if facts.gpus else ["SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"]
    names += [f"SLURM_MEM_PER_{unit}" for unit in ("NODE", "CPU", "GPU") if unit not in facts.memory_per]
    for name in names:
        env.pop(name, None)


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
