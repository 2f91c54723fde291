"""Jobs written and submitted by submitit; this is the only file that knows it.

submitit pickles `become` and a list of words, writes the script that sbatch gets, and calls sbatch. What it starts in the
job is replaced at once by the launcher, so that signals, saving and requeueing are the launcher's, as in jobs/*.sh.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import _make_sbatch_string

from momu_dist.errors import ConfigError, MomuError, without_login
from momu_dist.launch.facts import Record, write_record
from momu_dist.launch.sbatch import JOB, Options
from momu_dist.launch.scontrol import REACH
from momu_dist.launch.sites import SITE
from momu_dist.launch.status import JOBS
from momu_dist.launch.submit.become import become
from momu_dist.launch.submit.plan import Submission

FOLDER = JOBS / "submitted"
"""Scripts and pickled words of submitted jobs, in the folder that is submitted from."""

# `exec`: the batch script becomes the launcher, which therefore gets the signals that are for the batch script alone.
_PYTHON = f"exec {shlex.quote(sys.executable)}"


@dataclass(frozen=True)
class Submitted:
    """A job that SLURM has taken: its number, and those of its elements."""

    job: Submission
    job_id: str
    elements: tuple[str, ...]
    after: tuple[str, ...]


def job_options(job: Submission, wanted: Sequence[Options], after: Sequence[str] = ()) -> Options:
    """Return all options of one job: the project's, then those wanted, the last one winning; `after` are job numbers."""
    options = dict(JOB)
    for more in wanted:
        options.update(more)
    if not job.saves:
        options.pop("signal")  # submitit's own then stands there, which is for steps, and there are none
    if after:
        options |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    return options


def render(job: Submission, options: Options, site: str | None) -> str:
    """Return the text that sbatch gets."""
    _check_folder()
    command = f"{_PYTHON} -u -m submitit.core._submit {shlex.quote(str(FOLDER.absolute()))}"
    array = {"map_count": len(job.elements)} if len(job.elements) > 1 else {}
    text: str = _make_sbatch_string(command, FOLDER.absolute(), **_parameters(job, options, site), **array)
    return text


def submit(job: Submission, options: Options, site: str | None, after: Sequence[str] = ()) -> Submitted:
    """Submit one job and return its number; MomuError if sbatch is missing or refuses it."""
    _check_folder()
    try:
        executor = submitit.SlurmExecutor(FOLDER, python=_PYTHON)
    except RuntimeError as error:
        raise MomuError(
            "no SLURM here: srun is not found; submit on a login node of the cluster, or look with --dry-run."
        ) from error
    executor.update_parameters(**_parameters(job, options, site))
    now = datetime.now().astimezone()
    try:
        with _without_variables_of_this_shell():
            taken = executor.map_array(become, [list(element.arguments) for element in job.elements])
    except (FailedJobError, FailedSubmissionError) as error:
        raise MomuError(f"sbatch refused the job {job.name}: {' '.join(str(error).split())}") from error
    ids = tuple(str(each.job_id) for each in taken)
    done = Submitted(job, ids[0].partition("_")[0], ids, tuple(after))
    try:
        write_record(done.job_id, _record(done, now))
    except OSError as error:  # SLURM has the job all the same
        print(f"note: {JOBS / done.job_id} cannot be written ({error.strerror}).")
    return done


def _record(done: Submitted, now: datetime) -> Record:
    elements = done.job.elements
    if len(elements) > 1:
        names = tuple(element.name for element in elements)
        return Record(submitted=now, name=done.job.name, after=done.after, elements=names)
    work = tuple(without_login(word) for word in elements[0].arguments[1:])
    return Record(submitted=now, name=done.job.name, work=work, after=done.after)


def ignored_variables(env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables by which this shell would overrule what a submitted job asks for."""
    return sorted(name for name in env if name.startswith("SBATCH_"))


def _parameters(job: Submission, options: Options, site: str | None) -> dict[str, Any]:
    # sbatch takes a backslash for a sign that quotes the next one, also inside quotes.
    escaped = {
        option: value.replace("\\", "\\\\") if isinstance(value, str) else value
        for option, value in options.items()
    }
    setup = ["unset PYTHONPATH PYTHONHOME"]  # what they name could shadow the installed packages
    return {
        "job_name": job.name,
        "additional_parameters": escaped,
        "setup": [*setup, *([f"export {SITE}={shlex.quote(site)}"] if site else [])],
        "use_srun": False,  # the launcher starts its own steps
        "stderr_to_stdout": True,
        "wckey": None,  # submitit's own would need to be known to the cluster's accounting
    }


def _check_folder() -> None:
    found = [sign for sign in "%\\" if sign in str(FOLDER.absolute())]
    if found:
        raise ConfigError(
            f"{Path.cwd()} holds a {found[0]}, which SLURM replaces in names of logs; submit from another folder."
        )


@contextmanager
def _without_variables_of_this_shell() -> Iterator[None]:
    """SBATCH_... would win over the script, so a site that was exported to this shell would mix with the one asked for.

    SLURM_... are of a job that this shell is in: sbatch hands them on, and what the new job has not stays as it was there.
    """
    names = [name for name in os.environ if name.startswith("SLURM_") and name not in REACH]
    taken = {name: os.environ.pop(name) for name in (*ignored_variables(), *names)}
    try:
        yield
    finally:
        os.environ.update(taken)
