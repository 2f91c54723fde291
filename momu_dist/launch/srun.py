"""How something is run on nodes of a job: what every srun is told, and with which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

# srun would take these for options of its steps: SLURM's own for no environment at all, or all GPUs of the job on one node; and
# those of the shell that submitted, which sbatch hands on, for a time limit, or for where the words of the agents go.
_DROPPED = frozenset(
    {
        "SLURM_EXPORT_ENV", "SLURM_GPUS", "SLURM_LABELIO", "SLURM_STDERRMODE", "SLURM_STDINMODE", "SLURM_STDOUTMODE",
        "SLURM_TIMELIMIT", "SLURM_UNBUFFEREDIO",
    }
)  # fmt: skip


def srun(nodes: int, cpus: int, *options: str) -> list[str]:
    """Return the beginning of a command that runs once on each of `nodes` nodes with so many CPUs.

    One that fails, or ends before the others, ends none of them.
    """
    return [
        "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}", "--export=ALL",
        "--kill-on-bad-exit=0", "--wait=0", *options,
    ]  # fmt: skip


def step_env(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for an srun, without what would change it unasked."""
    return {name: value for name, value in env.items() if name not in _DROPPED}
