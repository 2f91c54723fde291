"""What every step is told."""

from __future__ import annotations

from momu_dist.launch.srun import srun, step_env


def test_a_step_runs_once_on_each_node_and_ends_no_other() -> None:
    words = srun(2, 4, "--overlap")
    assert words[0] == "srun" and words[-1] == "--overlap"
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=4", "--kill-on-bad-exit=0", "--wait=0"} <= set(words)


def test_what_would_change_a_step_unasked_is_left_out() -> None:
    env = {"SLURM_EXPORT_ENV": "NONE", "SLURM_GPUS": "8", "SLURM_JOB_ID": "7", "PATH": "/bin"}
    env |= {
        "SLURM_LABELIO": "1",
        "SLURM_STDINMODE": "none",
        "SLURM_TIMELIMIT": "1",
    }  # of the shell that submitted
    assert step_env(env) == {"SLURM_JOB_ID": "7", "PATH": "/bin"}
