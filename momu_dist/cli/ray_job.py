"""`momu ray-job`."""

from __future__ import annotations

import argparse

from momu_dist.cli.command import Commands, add


def add_ray_job(commands: Commands) -> None:
    parser = add(commands, "ray-job", "Run a program on the Ray of a running job.", _run)
    parser.usage = "momu ray-job [-h] [--no-upload] JOB -- COMMAND ..."
    parser.description = (
        "Hands a program to the Ray of a running job (of momu submit hold, or any other) and shows its output. The checkout "
        "is uploaded without .git, .venv, runs, data, .cache, weights and wheelhouse; paths in the command must then be absolute."
    )
    parser.add_argument(
        "--no-upload", action="store_true", help="run in this folder itself, which the nodes must see too"
    )
    parser.add_argument("job", metavar="JOB", help="the number of a running job, as momu status shows it")
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND ...",
        help="such as: -- python -m momu_dist.train --config configs/demo/music_vae.yaml out=/shared/runs",
    )


def _run(options: argparse.Namespace) -> None:
    import subprocess
    from pathlib import Path

    from momu_dist.errors import ConfigError, DataError
    from momu_dist.launch.queue import ask_queue, job_number
    from momu_dist.launch.ray_job import check_upload, ray_job_command, ray_job_env, ray_of_job

    command = options.command[options.command[:1] == ["--"] :]
    if not command or command[0].startswith("-"):
        raise ConfigError("ray-job: give its own options, the job, then -- and the command, as in its help.")
    job = job_number(options.job, None if options.job.isdecimal() else ask_queue())
    ray, root = ray_of_job(job), Path.cwd()
    if not options.no_upload:
        check_upload(root)
    words = ray_job_command(job, ray, command, root, upload=not options.no_upload)
    try:
        code = subprocess.run(words, env=ray_job_env(ray)).returncode
    except FileNotFoundError as error:
        raise DataError("no srun here; run this on a login node of the cluster.") from error
    if code:
        raise SystemExit(code)
