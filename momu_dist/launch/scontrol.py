"""What SLURM's controller says of a job, and what it is asked for one. Nothing here waits longer than `TIMEOUT_S`."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import datetime

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class JobFacts:
    """A job as the controller has it."""

    state: str
    """Such as RUNNING; while it is being ended CANCELLED, PREEMPTED, TIMEOUT or COMPLETING.

    SIGNALING is a job that runs: before another signal SLURM sends SIGCONT, and shows this until all nodes have answered.
    """
    end: float
    """When it must end, in seconds of the clock; infinite where it need not, or nobody knows."""

    @property
    def running(self) -> bool:
        return self.state in ("RUNNING", "SIGNALING")


def job_facts(job: str) -> JobFacts:
    """Return the facts of one job, or of one element of an array (`12_3`); a job that runs where the controller is silent."""
    code, out, _ = _scontrol("show", "job", "-o", job)
    facts = dict(word.split("=", 1) for word in out.split() if "=" in word) if code == 0 else {}
    try:
        end = datetime.fromisoformat(facts.get("EndTime", "")).timestamp()
    except ValueError:
        end = float("inf")
    return JobFacts(facts.get("JobState", "RUNNING"), end)


def requeue(job: str) -> str:
    """Put a job back into the queue; return why not, or nothing."""
    code, _, error = _scontrol("requeue", job)
    return "" if code == 0 else (error.strip() or f"exit code {code}")


def kill_wait_s() -> float:
    """Return the seconds from SLURM's SIGTERM to its SIGKILL."""
    for line in _scontrol("show", "config")[1].splitlines():
        if line.startswith("KillWait"):
            return float(line.split("=")[1].split()[0])
    return 30.0


def _scontrol(*arguments: str) -> tuple[int, str, str]:
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr
