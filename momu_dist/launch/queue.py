"""What SLURM has of this user's jobs: those in its queue, and in its accounting how those ended that have left it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from momu_dist.errors import DataError
from momu_dist.launch import scontrol
from momu_dist.launch.terminal import one_line

_QUEUE = "%A|%i|%T|%D|%r|%j"  # the name last, here and below: it may hold any sign
_ACCOUNTING = "JobIDRaw,State,NodeList,JobName"
_NOT_ENDED = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "RUNNING", "SUSPENDED"})
"""States of accounting, which may be some seconds behind the queue."""


@dataclass(frozen=True)
class Queued:
    """A job as the queue shows it.

    `shown` is the number that users see, such as 12_3 of an array, or 12_[3-5] of what waits of one.
    """

    job: str
    shown: str
    state: str
    nodes: int
    reason: str
    name: str

    def holds(self, job: str) -> bool:
        """Return whether this line is that of `job`: a number, or 12_3."""
        if job in (self.job, self.shown):
            return True
        element = re.fullmatch(r"(\d+)_(\d{1,9})", job, re.ASCII)
        waiting = re.fullmatch(r"(\d+)_\[([^]%]*)(%\d+)?\]", self.shown, re.ASCII)
        return bool(element and waiting and element[1] == waiting[1] and _within(int(element[2]), waiting[2]))

    def waits(self, after: str) -> str:
        """Why it waits, and for which jobs as far as that is known; nothing of one that runs."""
        if self.state != "PENDING":
            return ""
        on = f" (on {after})" if after and self.reason.startswith("Dependency") else ""
        never = "; it will never begin: scancel it" if self.reason == "DependencyNeverSatisfied" else ""
        return f"waits: {self.reason}{on}{never}"


@dataclass(frozen=True)
class Past:
    """A job that has left the queue, as accounting has it; `began` if it was given nodes."""

    job: str
    state: str
    began: bool
    name: str


Queue = Mapping[str, Queued]


def ask_queue() -> dict[str, Queued] | None:
    """Return this user's jobs in the queue by the number of each; None where there is no squeue, or it does not answer."""
    said = scontrol.queue(_QUEUE)
    return None if said is None else read_queue(said)


def read_queue(text: str) -> dict[str, Queued]:
    """Return the jobs of squeue's output in the format `_QUEUE`, by the number of each."""
    found = {}
    for line in text.splitlines():
        parts = one_line(line).strip().split("|", 5)
        if len(parts) == 6 and parts[0].isdecimal():
            job, shown, state, nodes, reason, name = parts
            found[job] = Queued(job, shown, state, int(nodes) if nodes.isdecimal() else 0, reason, name)
    return found


def find_queued(job: str, queue: Queue | None) -> Queued | None:
    """Return the queue's line of a job, given by its number or as 12_3 of an array; None where it is in no queue."""
    return next((queued for queued in (queue or {}).values() if queued.holds(job)), None)


def ask_accounting(jobs: Sequence[str]) -> list[Past]:
    """Return those of these jobs that have ended, as far as accounting has them."""
    found = []
    for line in (scontrol.accounting(jobs, _ACCOUNTING) or "").splitlines() if jobs else ():
        parts = one_line(line).split("|", 3)
        if len(parts) == 4 and parts[0].isdecimal():
            job, state, nodes, name = parts
            state = state.partition(" ")[0]  # CANCELLED by 1000
            if state not in _NOT_ENDED:
                found.append(Past(job, state, nodes not in ("", "None assigned"), name))
    return found


def is_number(job: str) -> bool:
    """Return whether a text is a job's number."""
    return re.fullmatch(r"\d{1,18}", job, re.ASCII) is not None


def job_number(job: str, queue: Queue | None) -> str:
    """Return the number under which a job keeps its files; an element of an array, 12_3, has one of its own.

    Of one that waits it is the array's, for as long as it waits. DataError where there is no such job.
    """
    if is_number(job):
        return job
    if queued := find_queued(job, queue):
        return queued.job
    if re.fullmatch(r"\d{1,18}_\d{1,9}", job, re.ASCII) and (past := ask_accounting([job])):
        return past[0].job
    raise DataError(
        f"no job {job!r} is in the queue; give a job's number, and of an element of an array its own, as momu status shows it."
    )


def _within(index: int, listed: str) -> bool:
    """Whether an index is among squeue's, such as 0-3,7; a list that squeue has cut ends in dots, and may hold any."""
    for part in listed.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part, re.ASCII)
        if bounds is None:
            return True
        first, step = int(bounds[1]), int(bounds[3] or 1)
        if index in range(first, int(bounds[2] or first) + 1, max(1, step)):
            return True
    return False
