"""What every step is told."""

from __future__ import annotations

from momu_dist.launch.srun import srun, step_env


def test_a_step_runs_once_on_each_node_and_ends_no_other() -> None:
    words = srun(2, 4, "--overlap")
    assert words[0] == "srun" and words[-1] == "--overlap"
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=4", "--kill-on-bad-exit=0", "--wait=0"} <= set(words)


def test_a_step_that_shares_its_job_has_all_of_its_memory() -> None:
    """Whatever variables of SLURM say, which may be of another job."""
    assert "--mem=0" in srun(1, 4, "--overlap") and "--mem=0" not in srun(1, 4, "--mem=8G")


def test_what_would_change_a_step_unasked_is_left_out() -> None:
    known = {
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_CONF_SERVER": "ctl1:6817",
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "8000",
        "PATH": "/bin",
    }
    of_the_job = {"SLURM_EXPORT_ENV": "NONE", "SLURM_GPUS": "8", "SLURM_JOB_GPUS": "0,1"}
    of_the_shell = {
        "SLURM_LABELIO": "1", "SLURM_STDINMODE": "none", "SLURM_TIMELIMIT": "1", "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURM_ARRAY_TASK_ID": "3", "SLURM_HINT": "nomultithread", "SRUN_CPUS_PER_TASK": "64", "SRUN_CONTAINER": "/x",
    }  # fmt: skip
    assert step_env({**known, **of_the_job, **of_the_shell}) == known
