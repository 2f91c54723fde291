"""What is known of submitted jobs: the files that the launcher keeps in `runs/slurm/<job>/`, and SLURM's queue."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from momu_dist.errors import DataError
from momu_dist.launch import scontrol
from momu_dist.launch.status import JOBS

_QUEUE = "%A|%i|%T|%D|%r|%j"  # the name last: it may hold any sign


@dataclass(frozen=True)
class Queued:
    """A job as the queue shows it. `shown` is the number that users see, such as 12_3 of an array."""

    job: str
    shown: str
    state: str
    nodes: int
    reason: str
    name: str


@dataclass(frozen=True)
class Known:
    """A job as its files and the queue tell of it; either may be missing."""

    job: str
    facts: dict[str, Any] = field(default_factory=dict)
    queued: Queued | None = None

    @property
    def name(self) -> str:
        """The run's name, else the job's, else what it does."""
        run, work = self.facts.get("run"), self.facts.get("work")
        name = self.queued.name if self.queued else self.facts.get("name")
        return Path(run).name if run else str(name or (work[0] if isinstance(work, list) else work) or "?")

    def state(self, queue_known: bool) -> str:
        """SLURM's state, or how the job ended; `lost` if it said nothing of its end and is in no queue any more."""
        ended = self.facts.get("ended")
        if self.queued:
            return self.queued.state
        if ended:
            return "DONE" if ended["code"] == 0 else f"ENDED({ended['code']})"
        return "LOST" if queue_known else "?"

    def sentence(self, queue_known: bool) -> str:
        """Why it waits, why it ended, or what to look at."""
        ended = self.facts.get("ended")
        if self.queued and self.queued.state == "PENDING":
            return f"waits: {self.queued.reason}"
        if ended:
            first = ended.get("first_failure")
            return f"{ended['why']}{f' (first: {first})' if first and first != ended['why'] else ''}"
        if self.queued is None and queue_known:
            return f"it is in no queue and did not say how it ended; see momu logs {self.job}"
        return ""


def read_queue(text: str) -> dict[str, Queued]:
    """Return the jobs of squeue's output in the format `_QUEUE`, by the number of each."""
    found = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 5)
        if len(parts) == 6 and parts[0].isdigit():
            job, shown, state, nodes, reason, name = parts
            found[job] = Queued(job, shown, state, int(nodes) if nodes.isdigit() else 0, reason, name)
    return found


def ask_queue() -> dict[str, Queued] | None:
    """Return this user's jobs in the queue; None where there is no squeue, or it does not answer."""
    said = scontrol.queue(_QUEUE)
    return None if said is None else read_queue(said)


def read_facts(job: str) -> dict[str, Any]:
    """Return what `status.json` of a job says; nothing where it is not there yet, or cannot be read."""
    with suppress(OSError, ValueError):
        facts = json.loads((JOBS / job / "status.json").read_text())
        if isinstance(facts, dict):
            return facts
    return {}


def known_jobs(queue: dict[str, Queued] | None) -> list[Known]:
    """Return all jobs that have files here, oldest first, and those of the queue that have none yet.

    One that failed before the launcher was there has left its log alone.
    """
    facts = {job: {"name": name} for name, job in map(_of_log, Path().glob("slurm-*.out")) if job}
    facts |= {path.parent.name: read_facts(path.parent.name) for path in JOBS.glob("*/status.json")}
    jobs = sorted({job for job in (*facts, *(queue or {})) if job.isdigit()}, key=int)
    return [Known(job, facts.get(job, {}), (queue or {}).get(job)) for job in jobs]


def _of_log(path: Path) -> tuple[str, str]:
    """The name and the number of the job whose log it is; empty where it is no job's."""
    match = re.fullmatch(r"slurm-(.+)-(\d+)\.out", path.name, re.ASCII)
    return (match[1], match[2]) if match else ("", "")


def job_number(job: str, queue: dict[str, Queued] | None) -> str:
    """Return the number under which a job keeps its files; an element of an array, 12_3, has one of its own."""
    if re.fullmatch(r"\d+", job, re.ASCII):
        return job
    for queued in (queue or {}).values():
        if queued.shown == job:
            return queued.job
    raise DataError(
        f"no job {job!r} is in the queue; give a job's number, and of an element of an array its own, as momu status shows it."
    )


def status_lines(jobs: list[Known], queue_known: bool) -> list[str]:
    """Return a line a job, under a head line; columns are as wide as they need to be."""
    rows = [("job", "name", "state", "phase", "step", "restarts", "nodes", "")]
    for known in jobs:
        facts, queued = known.facts, known.queued
        total = facts.get("total_steps")
        nodes = len(facts.get("nodes") or ()) or (queued.nodes if queued else 0)
        rows.append(
            (
                known.job + (f" ({queued.shown})" if queued and queued.shown != known.job else ""),
                known.name,
                known.state(queue_known),
                str(facts.get("phase") or "-"),
                f"{facts.get('step') or 0}/{total}" if total else "-",
                str(facts.get("restart", 0)),
                str(nodes or "-"),
                known.sentence(queue_known),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[7]]).rstrip()
        for row in rows
    ]


def log_file(job: str, node: str | None) -> Path:
    """Return a job's own log, or the newest of one of its nodes; DataError says which there are."""
    if node is None:
        found = sorted(Path().glob(f"slurm-*-{job}.out"))
        if not found:
            raise DataError(
                f"no log slurm-*-{job}.out in {Path.cwd()}: the job has not begun, or was submitted from another folder."
            )
        return found[0]
    logs = _node_logs(job)
    if node not in logs:
        there = f"there are: {', '.join(sorted(logs))}" if logs else "there is none yet"
        raise DataError(f"no log of node {node} in {(JOBS / job).absolute()}; {there}.")
    return logs[node]


def _node_logs(job: str) -> dict[str, Path]:
    """The newest log of each node, whose names end in .r<restart>.log."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in (JOBS / job).glob("*.log"):
        match = re.fullmatch(r"(.+)\.r(\d+)\.log", path.name)
        if match and int(match[2]) >= newest.get(match[1], (-1, path))[0]:
            newest[match[1]] = (int(match[2]), path)
    return {node: path for node, (_, path) in newest.items()}


def follow(find: Callable[[], Path], ended: Callable[[], bool], pause_s: float = 1.0) -> Iterator[str]:
    """Yield a log and what is added to it until the job has ended; where a restart begins another file, that too."""
    path, position = find(), 0
    while True:
        last = ended()  # asked first, so that what was written before the end is read after it
        newest = find()
        for file in [path] if newest == path else [path, newest]:
            if file != path:
                path, position = file, 0
            with path.open("rb") as log:
                log.seek(position)
                added = log.read()
            position += len(added)
            if added:
                yield added.decode(errors="replace")
        if last:
            return
        time.sleep(pause_s)
