"""What is known of submitted jobs: the files that they have in `runs/slurm/<job>/`, their logs, and what SLURM has of them."""

from __future__ import annotations

import codecs
import io
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from momu_dist.errors import ConfigError, DataError
from momu_dist.launch.facts import RECORD, STATUS, Ended, Facts, Record, read_facts, read_record
from momu_dist.launch.queue import Past, Queued, ask_accounting, ask_queue, find_queued
from momu_dist.launch.status import JOBS
from momu_dist.launch.terminal import one_line, plain

Queue = Mapping[str, Queued]

_HERE = "momu looks in the folder that it is called from: call it in the checkout from which the job was submitted"
_TAIL = 4096
_LOG_S = 30.0
"""Within which the log of a job that has begun is seen here too."""


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
            one_line(_of_log(self.log)[0]) if self.log else "",
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
        last = _last_line(self.log)
        said = f"; its log ends: {last}" if last else ""
        return f"it is in no queue and did not say how it ended{said}; see momu logs {self.job}"


def known_jobs(queue: Queue | None, newest: int | None = None) -> tuple[list[Known], int]:
    """Return the jobs that have files here, oldest first, and those of the queue that have none yet.

    Of those that have left the queue only the `newest`; the second number is how many are left out.
    """
    logs = _logs()
    last = {job: _changed(log) for job, log in logs.items()}
    for path in (path for name in (STATUS, RECORD) for path in JOBS.glob(f"*/{name}")):
        last[path.parent.name] = max(last.get(path.parent.name, 0.0), _changed(path))
    waiting = set(queue or ())
    # By time, as numbers begin anew where a cluster is set up anew.
    past = sorted(
        (job for job in last if _is_number(job) and job not in waiting), key=lambda job: (last[job], int(job))
    )
    left_out = 0 if newest is None else max(0, len(past) - newest)
    return _known(sorted({*past[left_out:], *waiting}, key=int), queue, logs), left_out


def known_job(job: str, queue: Queue | None) -> Known:
    """Return what is known of one job; DataError where that is nothing."""
    (known,) = _known([job], queue, _logs())
    if known == Known(job):
        raise DataError(
            f"no job {job} in {JOBS.absolute()}, nor in the queue or in SLURM's accounting. {_HERE}."
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
    """A job by its files alone. What is of a job before it is none of its own."""
    try:
        record = read_record(job)
        if log and record and record.follows(datetime.fromtimestamp(_changed(log), UTC)):
            log = None
        return Known(job, read_facts(job, record), record, log)
    except DataError as error:
        return Known(job, log=log, unreadable=str(error))


def _logs() -> dict[str, Path]:
    """The newest log of each job that was submitted from this folder."""
    found: dict[str, Path] = {}
    for path in sorted(Path().glob("slurm-*.out"), key=_changed):
        if job := _of_log(path)[1]:
            found[job] = path
    return found


def _changed(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _of_log(path: Path) -> tuple[str, str]:
    """The name and the number of the job whose log it is; empty where it is no job's."""
    match = re.fullmatch(r"slurm-(.+)-(\d+)\.out", path.name, re.ASCII)
    return (match[1], match[2]) if match else ("", "")


def _last_line(log: Path | None) -> str:
    """The last words of a log: SLURM's own, or of what kept the launcher from saying anything."""
    if log is None:
        return ""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = [one_line(line).strip() for line in file.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")
    return ""


def _given(work: Sequence[str]) -> str:
    """The name that a command line gives to its run, or to its scores."""
    return next(
        (word.partition("=")[2] for word in reversed(work) if word.startswith(("name=", "--name="))), ""
    )


def _config(work: Sequence[str]) -> str:
    """What a training's YAML is called, which mostly is the run's name too."""
    path = next((path for word, path in zip(work, work[1:], strict=False) if word == "--config"), "")
    return Path(path).stem if work[:1] == ("train",) else ""


def _is_number(job: str) -> bool:
    return re.fullmatch(r"\d{1,18}", job, re.ASCII) is not None


def job_number(job: str, queue: Queue | None) -> str:
    """Return the number under which a job keeps its files; an element of an array, 12_3, has one of its own.

    Of one that waits it is the array's, for as long as it waits. DataError where there is no such job.
    """
    if _is_number(job):
        return job
    if queued := find_queued(job, queue):
        return queued.job
    if re.fullmatch(r"\d{1,18}_\d{1,9}", job, re.ASCII) and (past := ask_accounting([job])):
        return past[0].job
    raise DataError(
        f"no job {job!r} is in the queue; give a job's number, and of an element of an array its own, as momu status shows it."
    )


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


def log_file(job: str, node: str | None) -> Path:
    """Return the newest log of a job, or of one of its nodes; DataError says which there are."""
    if node is None:
        log = _by_files(job, _logs().get(job)).log
        if log is None:
            raise DataError(
                f"no log slurm-*-{job}.out in {Path.cwd()}; has the job begun (momu status {job})? {_HERE}."
            )
        return log
    logs = _node_logs(job)
    if node not in logs:
        there = f"there are: {', '.join(sorted(logs))}" if logs else "there is none yet"
        raise DataError(f"no log of node {node} in {(JOBS / job).absolute()}; {there}.")
    return logs[node]


def _node_logs(job: str) -> dict[str, Path]:
    """The newest log of each node, whose names end in .r<restart>.log."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in (JOBS / job).glob("*.log"):
        match = re.fullmatch(r"(.+)\.r(\d{1,9})\.log", path.name, re.ASCII)
        if match and int(match[2]) >= newest.get(match[1], (-1, path))[0]:
            newest[match[1]] = (int(match[2]), path)
    return {node: path for node, (_, path) in newest.items()}


def job_with_log(job: str, node: str | None, queue: Queue | None) -> str:
    """Return the number of a job that has a log, of its own or of a node; DataError where it has none."""
    queued = find_queued(job, queue)
    if queued and job not in (queued.job, queued.shown):
        raise DataError(f"{job} waits in the queue ({queued.reason}) and has no log yet.")
    number = job_number(job, queue)
    log_file(number, node)
    return number


def wait_for_log(job: str, node: str | None, say: Callable[[str], None], pause_s: float = 3.0) -> str:
    """Return the same; a job that waits in the queue is waited for, which is said once."""
    until = 0.0
    while True:
        queue = ask_queue()
        queued = find_queued(job, queue)
        try:
            return job_with_log(job, node, queue)
        except DataError:
            if queued and queued.state == "PENDING":
                if not until:
                    say(
                        f"job {queued.shown} waits in the queue ({queued.reason}); its log follows once it begins"
                    )
                until = time.monotonic() + _LOG_S
            elif time.monotonic() > until:
                raise
        time.sleep(pause_s)


def has_ended(job: str) -> bool:
    """Return whether a job has left the queue: a requeued one has ended once and is there again."""
    queue = ask_queue()
    return job not in queue if queue is not None else _by_files(job, None).facts.ended is not None


def follow(find: Callable[[], Path], ended: Callable[[], bool], pause_s: float = 1.0) -> Iterator[str]:
    """Yield a log and what is added to it until the job has ended; where a restart begins another file, that too.

    As a terminal may have it: what draws a line anew, as a progress bar does, begins another one.
    """
    path, position, decoder = find(), 0, _decoder()
    while True:
        last = ended()  # asked first, so that what was written before the end is read after it
        newest = find()
        for file in [path] if newest == path else [path, newest]:
            if file != path:
                path, position, decoder = file, 0, _decoder()
            with path.open("rb") as log:
                log.seek(position)
                added = log.read()
            position += len(added)
            if text := plain(decoder.decode(added, final=last or file != newest)):
                yield text
        if last:
            return
        time.sleep(pause_s)


def _decoder() -> io.IncrementalNewlineDecoder:
    """Of bytes that come in pieces, which may end within a character or a newline."""
    return io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
