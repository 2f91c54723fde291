"""What a job asks of sbatch: long options and their values, from the project, the site and the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from momu_dist.errors import ConfigError

Options = dict[str, str | bool]
"""Long options of sbatch, without dashes in front; True is an option without a value."""

JOB: Options = {
    "nodes": "1",
    "ntasks-per-node": "1",  # the launcher starts its own steps on the nodes
    "cpus-per-task": "4",
    "time": "24:00:00",
    "signal": "B:USR2@180",  # to the launcher alone, which has 180 s to save; NCCL takes USR1 for itself
    "requeue": True,
    "no-kill": True,  # a lost node ends no job: training goes on with the others
    "open-mode": "append",
    "output": "slurm-%x-%j.out",
}
"""Of every job, whichever way it is submitted; the headers of jobs/*.sh carry the same (tested)."""

SITE = "MOMU_CLUSTER"
"""The variable by which a job knows its site."""

VARIABLES = {
    "account": "SBATCH_ACCOUNT",
    "constraint": "SBATCH_CONSTRAINT",
    "exclusive": "SBATCH_EXCLUSIVE",
    "gpus-per-node": "SBATCH_GPUS_PER_NODE",
    "gres": "SBATCH_GRES",
    "mem": "SBATCH_MEM_PER_NODE",
    "mem-per-cpu": "SBATCH_MEM_PER_CPU",
    "mem-per-gpu": "SBATCH_MEM_PER_GPU",
    "partition": "SBATCH_PARTITION",
    "qos": "SBATCH_QOS",
    "reservation": "SBATCH_RESERVATION",
    "signal": "SBATCH_SIGNAL",
    "time": "SBATCH_TIMELIMIT",
    "wckey": "SBATCH_WCKEY",
}
"""Options of sbatch that a site may set: those that sbatch also reads from the environment, so that both ways are one.

Not cpus-per-gpu, which sbatch refuses beside the cpus-per-task of every job.
"""

_PRINTS = "momu submit reads what sbatch prints of a job; give it to sbatch itself"

# What `momu submit` says in another way, or what would part a job from its log, its folder or its programs.
OWN = {
    "array": "use --sweep",
    "chdir": "submit from the folder itself",
    "clusters": "a site is one cluster: submit on a login node of that one, and give each a site of its own",
    "dependency": "use --after",
    "error": "a job's errors are in its log",
    "export": "jobs need the environment that they are submitted from",
    "help": _PRINTS,
    "job-name": "use name=...",
    "nodes": "use --nodes",
    "open-mode": "a requeued job appends to its log",
    "output": "momu logs finds the log by its name",
    "parsable": "the job's number is printed",
    "quiet": _PRINTS,
    "test-only": "use --dry-run",
    "usage": _PRINTS,
    "version": _PRINTS,
    "wait": "momu status says how the job fares",
    "wrap": "give sbatch itself your own command",
}


def checked_options(given: Mapping[str, object]) -> Options:
    """Return options with values as text; ConfigError for a value that sbatch would misread."""
    options: Options = {}
    for option, value in given.items():
        if option == "exclusive" and isinstance(value, bool):
            # The one flag that sbatch also reads from the environment; there it needs a word.
            value = "exclusive" if value else None
        if value is None:
            continue
        options[option] = _checked(option, value)
    return options


def _checked(option: str, value: object) -> str | bool:
    if isinstance(value, bool):
        if option in VARIABLES:
            raise ConfigError(f"sbatch.{option} is {str(value).lower()}, expected a value.")
        return value
    if option == "time" and not isinstance(value, str):
        raise ConfigError(
            f'sbatch.time is {value!r}, expected a text in quotes, such as "24:00:00", or "90" for minutes: YAML '
            "reads 24:00:00 without quotes as a number of seconds, which sbatch would take for minutes."
        )
    text = str(value)
    if not text or not text.isprintable():
        raise ConfigError(
            f"sbatch.{option} is {text!r}, expected a text without control characters, and not empty."
        )
    if option == "signal" and not re.fullmatch(r"B:USR2@\d{1,5}", text):
        raise ConfigError(
            f"sbatch.signal is {text!r}, expected B:USR2@SECONDS: the launcher, which is the batch script, saves at USR2."
        )
    return text


def options_of_command_line(texts: Sequence[str]) -> Options:
    """Return the options given as `key=value`, or `key` for one without a value."""
    given: dict[str, object] = {}
    for text in texts:
        option, equals, value = text.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", option):
            raise ConfigError(f"--sbatch {text!r} is not of the form key=value with a long option of sbatch.")
        if option in OWN:
            raise ConfigError(f"--sbatch {option} cannot be set here; {OWN[option]}.")
        given[option] = value if equals else True
    return checked_options(given)
