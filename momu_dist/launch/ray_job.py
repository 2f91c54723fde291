"""A program handed to the Ray of a running job, from a login node: what is uploaded, and the command that does it."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from momu_dist.errors import ConfigError, DataError
from momu_dist.launch.facts import RayOfJob, read_facts, read_ray
from momu_dist.launch.srun import srun, step_env
from momu_dist.launch.status import JOBS, RAY

EXCLUDED = (".git", ".venv", "runs", "data", ".cache", "weights", "wheelhouse")
"""Folders of the checkout that are never uploaded: large, and named by absolute paths where they are needed."""
_ANYWHERE = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")

LIMIT = 100 * 1024**2
"""Bytes that Ray's dashboard takes at once; more, and it breaks off without saying why."""


def ray_of_job(job: str) -> RayOfJob:
    """Return where the Ray of `job` is; DataError if the job has ended or has none yet."""
    facts = read_facts(job)
    if facts.ended:
        raise DataError(f"job {job} has ended ({facts.ended.why}); its Ray went with it.")
    ray = read_ray(job)
    if ray is None:
        raise DataError(
            f"no Ray at {(JOBS / job / RAY).absolute()} (phase: {facts.phase or 'none'}): the job has not brought it up yet, or "
            "was submitted from another checkout: call momu in that one."
        )
    return ray


def upload_sizes(root: Path) -> Counter[str]:
    """Return the bytes of what would be uploaded of `root`, by its entries; links are followed, as Ray does.

    ConfigError for what Ray would read without an end.
    """
    sizes: Counter[str] = Counter()
    for folder, below, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        top = relative.parts[:1]
        below[:] = [name for name in below if name not in _ANYWHERE and (top or name not in EXCLUDED)]
        for name in files:
            path = Path(folder, name)
            if (not top and name in EXCLUDED) or not path.exists():
                continue
            found = path.stat()
            if stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
                raise ConfigError(
                    f"{path} is a named pipe or a device, which Ray would read without an end; move it out of the checkout or "
                    "into runs/, or give --no-upload where the nodes see this folder too."
                )
            if stat.S_ISREG(found.st_mode):  # of a socket Ray takes nothing
                # Ray zips without compressing; each file's name is in it twice, beside about a hundred bytes.
                sizes[top[0] if top else name] += found.st_size + 2 * len(os.fsencode(relative / name)) + 100
    return sizes


def check_upload(root: Path) -> None:
    """ConfigError if Ray would not take `root`, with what is in its way or the largest entries."""
    sizes = upload_sizes(root)
    total = sum(sizes.values())
    if total >= LIMIT:
        largest = ", ".join(f"{name} ({size / 1024**2:.1f} MiB)" for name, size in sizes.most_common(5))
        raise ConfigError(
            f"{root} would upload {total / 1024**2:.1f} MiB, Ray takes less than {LIMIT // 1024**2}; largest: {largest}. Move "
            "them out of the checkout or into runs/ or data/, or give --no-upload where the nodes see this folder too."
        )


def ray_job_command(job: str, ray: RayOfJob, command: Sequence[str], root: Path, upload: bool) -> list[str]:
    """Return the words that hand `command` to the Ray of a job, by way of a step on its head node."""
    # On a node `python` may be another one, without our packages.
    words = [sys.executable if command[0] in ("python", "python3") else command[0], *command[1:]]
    # Ray's dashboard listens on the head node alone, so its own command line is run there, in what is left over.
    there = srun(1, 1, "--overlap", f"--jobid={job}", f"--nodelist={ray.head}")
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", ray.dashboard]
    if upload:
        excludes = [*(f"/{name}" for name in EXCLUDED), *_ANYWHERE]
        submit += ["--working-dir", str(root), "--runtime-env-json", json.dumps({"excludes": excludes})]
    else:
        words = ["env", f"--chdir={root}", *words]
    return [*there, *submit, "--", *words]


def ray_job_env(ray: RayOfJob, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of that command, from that of the shell."""
    return {
        **{name: value for name, value in step_env(env).items() if name != "RAY_AUTH_TOKEN"},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": ray.token_file,
        "RAY_ADDRESS": ray.dashboard,
        # What is left out is said once, in the command: what was measured is what is sent.
        "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "1",
        # Login nodes often name a proxy, which knows nothing of a node's own address.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
