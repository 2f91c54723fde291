"""What a job tells of itself: `status.json` in its folder, and lines in its log."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from momu_dist.train.process import process_age_s

JOBS = Path("runs/slurm")
"""What jobs keep, in the folder they were submitted from."""


def job_folder(submit_dir: Path, job_id: int | str) -> Path:
    """Where a job keeps its status, the logs of its nodes and its token."""
    return submit_dir / JOBS / str(job_id)


@dataclass
class Status:
    """The state of one job, written at every change; attempts before are kept in `before`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def open(self, job: int, name: str, restart: int, work: list[str]) -> Status:
        """Begin an attempt; what the file held of the one before moves to `before`."""
        old: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            old = json.loads(self.path.read_text())
        # A cluster that was set up anew counts its jobs from 1 again.
        before = [*old.pop("before", []), old] if restart and old.get("job") == job else []
        age = process_age_s()
        self._began = time.monotonic() - age
        began = datetime.now().astimezone() - timedelta(seconds=age)
        self.facts = {
            "job": job,
            "name": name,
            "restart": restart,
            "work": work,
            "started": began.isoformat(timespec="milliseconds"),  # the first of phases_s begins here
            "nodes": [],
            "phase": "start",
            "phases_s": {},
            "run": None,
            "step": 0,
            "total_steps": None,
            "reached": None,  # how far the work had come, for good, when this attempt began
            "failures": before[-1].get("failures", 0) if before else 0,
            "ended": None,
            "before": before,
        }
        return self

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

    def write(self) -> None:
        """Replace the file as a whole: what reads it never sees half of it. A disk that refuses ends no training."""
        temporary = self.path.with_suffix(".writing")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.facts, indent=2) + "\n")
            os.replace(temporary, self.path)
        except OSError as error:
            print(f"momu: {self.path} is not up to date ({error.strerror})", flush=True)
