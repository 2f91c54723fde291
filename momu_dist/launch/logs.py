"""The logs of jobs: which there are, and what is shown of them."""

from __future__ import annotations

import codecs
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from momu_dist.errors import DataError
from momu_dist.launch.facts import HERE, of_older_job, read_facts
from momu_dist.launch.queue import Queue, ask_queue, find_queued, job_number
from momu_dist.launch.status import JOBS
from momu_dist.launch.terminal import one_line, plain

_TAIL = 4096
_LOG_S = 30.0
"""Within which the log of a job that has begun is seen here too."""


def newest_logs(job: str = "*") -> dict[str, Path]:
    """Return the newest log of each job, or of one, that was submitted from this folder."""
    found: dict[str, Path] = {}
    for path in sorted(Path().glob(f"slurm-*-{job}.out"), key=changed):
        number = of_log(path)[1]
        if number and path.is_file() and not of_older_job(path, number):
            found[number] = path
    return found


def changed(path: Path) -> float:
    """Return when a file was written last, in seconds of the clock; 0 of one that is gone."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def of_log(path: Path) -> tuple[str, str]:
    """Return the name and the number of the job whose log it is; empty where it is no job's."""
    match = re.fullmatch(r"slurm-(.+)-(\d+)\.out", path.name, re.ASCII)
    return (match[1], match[2]) if match else ("", "")


def last_line(log: Path | None) -> str:
    """Return the last words of a log: SLURM's own, or of what kept the launcher from saying anything."""
    if log is None:
        return ""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = [one_line(line).strip() for line in file.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")
    return ""


def log_file(job: str, node: str | None) -> Path:
    """Return the newest log of a job, or of one of its nodes; DataError says which there are."""
    if node is None:
        log = newest_logs(job).get(job)
        if log is None:
            raise DataError(
                f"no log slurm-*-{job}.out in {Path.cwd()}: the job has not begun (momu status {job}), or was submitted from "
                f"another folder; {HERE}."
            )
        return log
    logs = _node_logs(job)
    if node not in logs:
        there = f"there are: {', '.join(map(one_line, sorted(logs)))}" if logs else "there is none yet"
        raise DataError(f"no log of node {node} in {(JOBS / job).absolute()}; {there}.")
    return logs[node]


def _node_logs(job: str) -> dict[str, Path]:
    """The newest log of each node, whose names end in .r<restart>.log."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in (JOBS / job).glob("*.log"):
        match = re.fullmatch(r"(.+)\.r(\d{1,9})\.log", path.name, re.ASCII)
        if not match or not path.is_file() or of_older_job(path, job):
            continue
        if int(match[2]) >= newest.get(match[1], (-1, path))[0]:
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
    if queue is not None:
        return job not in queue
    with suppress(DataError):
        ended = read_facts(job).ended
        return ended is not None and not ended.requeued
    return False


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
