"""What is known of submitted jobs: the files that they have in `runs/slurm/<job>/`, their logs, and what SLURM has of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from momu_dist.errors import ConfigError, DataError
from momu_dist.launch.facts import HERE, Ended, Facts, Record, read_facts, read_record
from momu_dist.launch.logs import changed, last_line, newest_logs, of_log
from momu_dist.launch.queue import Past, Queue, Queued, ask_accounting, is_number, job_number
from momu_dist.launch.status import JOBS, RECORD, STATUS
from momu_dist.launch.terminal import one_line


@dataclass(frozen=True)
class Known:
    """A job as its files, the queue and accounting tell of it; any of them may be missing."""

    job: str
    facts: Facts = Facts()
    record: Record | None = None
    log: Path | None = None
    queued: Queued | None = None
    past: Past | None = None
    unreadable: str = ""
    """Why one of its files cannot be read."""

    @property
    def name(self) -> str:
        """The run's name, else the job's, else what it does."""
        facts, record, queued, past = self.facts, self.record, self.queued, self.past
        names = (
            Path(facts.run).name if facts.run else "",
            _given(facts.work),
            record.name if record else "",
            _config(facts.work),
            queued.name if queued else past.name if past else "",
            facts.name,
            one_line(of_log(self.log)[0]) if self.log else "",
            *facts.work[:1],
        )
        return next((name for name in names if name), "?")

    @property
    def end(self) -> Ended | None:
        """How it has said that it ended; None of one that was to begin again."""
        ended = self.facts.ended
        return None if ended is None or ended.requeued else ended

    @property
    def failed(self) -> bool:
        """Whether it is known to have ended without success."""
        if self.queued or self.unreadable:
            return False
        if self.end:
            return self.end.code != 0
        return self.past is not None and self.past.state != "COMPLETED"

    @property
    def began(self) -> bool:
        """Whether what SLURM had in its queue last has begun."""
        if self.past is not None:
            return self.past.began
        return self.facts.ended is None and (self.facts != Facts() or self.log is not None)

    def state(self, queue_known: bool) -> str:
        """SLURM's state, or how it ended; of what has left the queue without a word LOST, or REMOVED if it had not begun."""
        if self.queued:
            return self.queued.state
        if self.unreadable:
            return "UNREADABLE"
        if self.end:
            return "DONE" if self.end.code == 0 else f"ENDED({self.end.code})"
        if self.past:
            return self.past.state
        if not queue_known:
            return "?"
        return "LOST" if self.began else "REMOVED"

    def sentence(self, queue_known: bool) -> str:
        """Why it waits, why it ended, or what to look at."""
        after = ", ".join(self.record.after) if self.record else ""
        if self.unreadable:
            return self.unreadable
        if self.queued:
            return self.queued.waits(after)
        if self.end:
            why, first = self.end.why, self.end.first_failure
            return f"{why}{f' (first: {first})' if first and first != why else ''}"
        if not queue_known:
            return ""
        if not self.began:
            again = " again" if self.facts.ended else ""
            cause = f" or because {after} did not succeed" if after else ""
            return f"left the queue before it began{again}, such as by scancel{cause}; submit it again"
        last = last_line(self.log)
        said = f"; its log ends: {last}" if last else ""
        return f"it is in no queue and did not say how it ended{said}; see momu logs {self.job}"


def known_jobs(queue: Queue | None, newest: int | None = None) -> tuple[list[Known], int]:
    """Return the jobs that have files here, oldest first, and those of the queue that have none yet.

    Of those that have left the queue only the `newest`; the second number is how many are left out.
    """
    logs = newest_logs()
    last = {job: changed(log) for job, log in logs.items()}
    for path in (path for name in (STATUS, RECORD) for path in JOBS.glob(f"*/{name}")):
        last[path.parent.name] = max(last.get(path.parent.name, 0.0), changed(path))
    waiting = set(queue or ())
    # By time, as numbers begin anew where a cluster is set up anew.
    past = sorted(
        (job for job in last if is_number(job) and job not in waiting), key=lambda job: (last[job], int(job))
    )
    left_out = 0 if newest is None else max(0, len(past) - newest)
    return _known(sorted({*past[left_out:], *waiting}, key=int), queue, logs), left_out


def known_job(job: str, queue: Queue | None) -> Known:
    """Return what is known of one job; DataError where that is nothing."""
    (known,) = _known([job], queue, newest_logs(job))
    if known == Known(job):
        raise DataError(
            f"no job {job} in {JOBS.absolute()}, nor in the queue or in SLURM's accounting; {HERE}."
        )
    return known


def refuse_failed(job: str, queue: Queue | None) -> None:
    """ConfigError if a job, which another is to wait for, is known to have failed: SLURM would remove that one at once."""
    try:
        known = known_job(job_number(job, queue), queue)
    except DataError:
        return  # of another folder, or none: sbatch knows
    if known.failed:
        how = known.state(True) + (f", {known.end.why}" if known.end else "")
        raise ConfigError(
            f"--after {job}: that job has ended without success ({how}), so what waits for it would be removed from the queue at "
            "once; submit that one again first, or leave --after out."
        )


def _known(jobs: Sequence[str], queue: Queue | None, logs: Mapping[str, Path]) -> list[Known]:
    found = [replace(_by_files(job, logs.get(job)), queued=(queue or {}).get(job)) for job in jobs]
    silent = [one.job for one in found if not (one.queued or one.end or one.unreadable)]
    past = {} if queue is None else {one.job: one for one in ask_accounting(silent)}
    return [replace(one, past=past.get(one.job)) if one.job in silent else one for one in found]


def _by_files(job: str, log: Path | None) -> Known:
    """A job by its files alone."""
    try:
        return Known(job, read_facts(job), read_record(job), log)
    except DataError as error:
        return Known(job, log=log, unreadable=str(error))


def _given(work: Sequence[str]) -> str:
    """The name that a command line gives to its run, or to its scores."""
    return next(
        (word.partition("=")[2] for word in reversed(work) if word.startswith(("name=", "--name="))), ""
    )


def _config(work: Sequence[str]) -> str:
    """What a training's YAML is called, which mostly is the run's name too."""
    path = next((path for word, path in zip(work, work[1:], strict=False) if word == "--config"), "")
    return Path(path).stem if work[:1] == ("train",) else ""


def status_lines(jobs: Sequence[Known], queue_known: bool) -> list[str]:
    """Return a line a job, under a head line; columns are as wide as they need to be."""
    rows = [("job", "name", "state", "phase", "step", "restarts", "nodes", "")]
    for known in jobs:
        facts, queued = known.facts, known.queued
        nodes = len(facts.nodes) or (queued.nodes if queued else 0)
        rows.append(
            (
                known.job + (f" ({queued.shown})" if queued and queued.shown != known.job else ""),
                known.name,
                known.state(queue_known),
                facts.phase or "-",
                f"{facts.step}/{facts.total_steps}" if facts.total_steps else "-",
                str(facts.restart),
                str(nodes or "-"),
                known.sentence(queue_known),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[7]]).rstrip()
        for row in rows
    ]
