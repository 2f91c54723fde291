"""What a job tells of itself: `status.json` in its folder, and lines in its log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from momu_dist.errors import ConfigError, without_login
from momu_dist.train.process import process_age_s

JOBS = Path("runs/slurm")
"""What jobs keep, in the folder they were submitted from."""
STATUS, RECORD, RAY, TOKEN = "status.json", "submitted.json", "ray.json", "token"
"""The files of one job's folder; those of its Ray are for the owner's eyes only, and there while it is up."""


def job_folder(submit_dir: Path, job: str | int) -> Path:
    """Where a job keeps its status, the logs of its nodes and its token."""
    return submit_dir / JOBS / str(job)


@dataclass
class Status:
    """The state of one job, written at every change; attempts before are kept in `before`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def open(self, job: int, name: str, work: Sequence[str]) -> Status:
        """Begin an attempt; what the file held of those before moves to `before`."""
        age = process_age_s()
        self._began = time.monotonic() - age
        began = datetime.now().astimezone() - timedelta(seconds=age)
        before = self._attempts(job)
        self.facts = {
            "job": job,
            "name": name,
            "restart": 0,
            "work": list(map(without_login, work)),
            "started": began.isoformat(timespec="milliseconds"),  # the first of phases_s begins here
            "nodes": [],
            "phase": "start",
            "phases_s": {},
            "run": None,
            "step": 0,
            "total_steps": None,
            "reached": None,  # how far the work had come, for good, when this attempt began
            "failures": before[-1]["failures"] if before else 0,
            "ended": None,
            "before": before,
        }
        self.write()
        return self

    def _attempts(self, job: int) -> list[dict[str, Any]]:
        """Return the attempts that the file tells of; none where it is not as `write` leaves it."""
        if not self.path.is_file():  # a pipe, say, would never end
            return []
        try:
            last = json.loads(self.path.read_text())
            attempts = [*last.pop("before"), last]
            fits = all(
                one["job"] == job
                and isinstance(one["failures"], int)
                and isinstance(one["reached"], int | None)
                for one in attempts
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []
        return attempts if fits else []

    def restarted(self, restart: int) -> None:
        """Tell how often the job was started again; the first time nothing before was of this job.

        A cluster that was set up anew counts its jobs from 1 again.
        """
        if restart == 0:
            self.facts.update(before=[], failures=0)
        self.set(restart=restart)

    @property
    def last(self) -> dict[str, Any] | None:
        """The attempt before this one."""
        before: list[dict[str, Any]] = self.facts["before"]
        return before[-1] if before else None

    @property
    def failures(self) -> int:
        return int(self.facts["failures"])

    def phase(self, name: str) -> None:
        """Enter a phase; the seconds of the one before are kept."""
        now = time.monotonic()
        last = self.facts["phase"]
        self.facts["phases_s"][last] = round(self.facts["phases_s"].get(last, 0.0) + now - self._began, 2)
        self._began = now
        self.facts["phase"] = name
        self.write()

    def set(self, **facts: Any) -> None:
        """Change facts and write them."""
        self.facts.update(facts)
        self.write()

    def end(
        self, code: int, why: str, first_failure: str | None = None, requeued: bool | None = None
    ) -> None:
        """Tell how the attempt ended; `requeued` is None while SLURM is asked."""
        self.set(ended={"code": code, "why": why, "first_failure": first_failure, "requeued": requeued})

    def write(self) -> None:
        """Replace the file as a whole: what reads it never sees half of it. A disk that refuses ends no training."""
        temporary = self.path.with_suffix(".writing")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.facts, indent=2) + "\n")
            os.replace(temporary, self.path)
        except OSError as error:
            say(f"{self.path} is not up to date ({error.strerror})")


def own_status(work: Sequence[str], env: Mapping[str, str] = os.environ) -> Status:
    """Begin an attempt of the job whose batch script called, to do `work`; ConfigError outside a job."""
    if "SLURM_JOB_ID" not in env or "SLURM_JOB_NODELIST" not in env:
        raise ConfigError(
            "no SLURM allocation: SLURM_JOB_ID is not set; submit with `sbatch jobs/train_dit.sh`, or train on this machine "
            "with `python -m momu_dist.train`."
        )
    job = env["SLURM_JOB_ID"]
    folder = job_folder(Path(env.get("SLURM_SUBMIT_DIR", os.getcwd())), job)
    return Status(folder / STATUS).open(int(job), env.get("SLURM_JOB_NAME", "momu"), work)


def say(text: str) -> None:
    """Print a line to the job's log."""
    print(f"momu: {text}", flush=True)
