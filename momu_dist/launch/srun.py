"""How something is run on nodes of a job: what every srun is told, and with which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from momu_dist.launch.scontrol import REACH

# What srun may know of SLURM's variables: for whom, and in which job. It takes nearly every other one for an option of its steps,
# be it from SLURM (no environment at all, or all GPUs of the job on one node) or, as sbatch hands all on, from the shell that
# submitted or the job that this shell was in: a time limit, labels before the words of the agents, a binding to CPUs.
_KNOWN = REACH | {
    "SLURM_ACCOUNT", "SLURM_JOB_ID", "SLURM_PARTITION", "SLURM_QOS", "SLURM_RESERVATION", "SLURM_WCKEY",
    # For the program: a step in a job is told its memory, see srun().
    "SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_MEM_PER_NODE",
}  # fmt: skip


def srun(nodes: int, cpus: int, *options: str) -> list[str]:
    """Return the beginning of a command that runs once on each of `nodes` nodes with so many CPUs.

    One that fails, or ends before the others, ends none of them. One that shares its job (--overlap) has all memory of it.
    """
    shares = ["--mem=0"] if "--overlap" in options else []
    return [
        "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}", "--export=ALL",
        "--kill-on-bad-exit=0", "--wait=0", *shares, *options,
    ]  # fmt: skip


def step_env(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for an srun, without what would change it unasked."""
    return {
        name: value for name, value in env.items()
        if name in _KNOWN or not name.startswith(("SLURM_", "SRUN_"))
    }  # fmt: skip
