"""What SLURM is asked, and told, of jobs and nodes. Nothing here waits without an end."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import datetime

from momu_dist.errors import ConfigError

TIMEOUT_S = 10.0
QUEUE_S = 30.0
"""The same for the whole queue, which a person waits for."""


@dataclass(frozen=True)
class JobFacts:
    """A job as the controller has it."""

    state: str
    """Such as RUNNING; while it is being ended CANCELLED, PREEMPTED, TIMEOUT or COMPLETING."""
    end: float
    """When it must end, in seconds of the clock; infinite where it need not, or nobody knows."""

    @property
    def running(self) -> bool:
        return self.state == "RUNNING"


def job_facts(job: str) -> JobFacts:
    """Return the facts of one job, or of one element of an array (`12_3`); a job that runs where the controller is silent."""
    code, out, _ = _asked("scontrol", "show", "job", "-o", job)
    facts = dict(word.split("=", 1) for word in out.split() if "=" in word) if code == 0 else {}
    try:
        end = datetime.fromisoformat(facts.get("EndTime", "")).timestamp()
    except ValueError:
        end = float("inf")
    return JobFacts(facts.get("JobState", "RUNNING"), end)


def requeue(job: str) -> str:
    """Put a job back into the queue; return why not, or nothing."""
    code, _, error = _asked("scontrol", "requeue", job)
    return "" if code == 0 else (error.strip() or f"exit code {code}")


def cancel(job: str) -> None:
    """Cancel a job."""
    _asked("scancel", job)


def hostnames(nodelist: str) -> tuple[str, ...]:
    """Return the names in SLURM's short form, such as node[1-3]."""
    code, out, error = _asked("scontrol", "show", "hostnames", nodelist)
    if code != 0 or not out.split():
        raise ConfigError(f"scontrol cannot read the nodes {nodelist!r} of this job: {error.strip()}.")
    return tuple(out.split())


def kill_wait_s() -> float:
    """Return the seconds from SLURM's SIGTERM to its SIGKILL."""
    for line in _asked("scontrol", "show", "config")[1].splitlines():
        if line.startswith("KillWait"):
            return float(line.split("=")[1].split()[0])
    return 30.0


def queue(shape: str) -> str | None:
    """Return a line in squeue's format `shape` for each of this user's jobs; None where squeue does not answer."""
    words = ("squeue", "--noheader", f"--user={os.getuid()}", f"--format={shape}")
    code, out, _ = _asked(*words, patience_s=QUEUE_S)
    return out if code == 0 else None


def _asked(*command: str, patience_s: float | None = None) -> tuple[int, str, str]:
    """Run a program of SLURM; return its exit code, what it said, and its complaint."""
    # Times in a form of the user's own could not be read.
    env = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    patience_s = TIMEOUT_S if patience_s is None else patience_s
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr
