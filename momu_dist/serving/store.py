"""The files and jobs that clients gave the service, kept so that a kill at any moment loses nothing and does nothing twice.

A folder holds all: `store.db` says what there is, `files/` and `results/` hold the bytes, `writing/` what is not yet whole.
A file gets its final name a moment before its row counts; what has no row counts for nothing and goes by `expire`.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from momu_dist.errors import DataError
from momu_dist.serving.store_disk import bytes_in, moved, naming, old_in, remove, sync, unknown_in
from momu_dist.serving.store_schema import (
    STATES,
    Full,
    ItemState,
    JobState,
    State,
    StoredItem,
    open_database,
    stage_of,
    steps_of,
)

ERRORS_TOLD = 100
ABANDONED_S = 3600.0
"""Age of what lies in `writing/` and nobody writes any more, such as the work on an item that was cancelled."""

_ID = re.compile(r"[0-9a-f]{32}")
_SUFFIX = re.compile(r"[a-z0-9]{1,8}")
_LARGEST = 2**63 - 1  # of SQLite's integers
_LIVE = "EXISTS (SELECT 1 FROM items WHERE job = jobs.id AND state IN ('queued', 'running'))"
_PINNED = "EXISTS (SELECT 1 FROM pins WHERE file = files.id)"
_THE_RUNNING = "job = ? AND position = ? AND state = 'running'"
_NEXT = """
WITH waiting AS (SELECT job, min(position) AS position FROM items WHERE state = 'queued' GROUP BY job),
    working AS (SELECT job, count(*) AS items FROM items WHERE state = 'running' GROUP BY job)
SELECT items.job, items.position, items.item, items.faults
FROM waiting JOIN items USING (job, position) JOIN jobs ON jobs.id = waiting.job
    LEFT JOIN working ON working.job = waiting.job
ORDER BY coalesce(working.items, 0), jobs.age LIMIT 1
"""


class Store:
    """The store in `folder`, which is made where there is none. Any thread may call it; one process at a time has it.

    An item goes from queued to running to done, failed or cancelled; only `give_back`, `try_again` and opening the store
    put a running one back to queued. A job lives while items are queued or running and, counted from the last that
    ended, `lifetime_s` more. Ids are 32 hexadecimal digits in lower case; any other text is the id of nothing.

    Raises DiskError, here and in all methods, where the system does not let it read or write: what was asked for has then
    not happened and may be asked for again. Opening raises ConfigError where another service has the folder, DataError
    where it holds something else.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._now = now
        self._files, self._results, self._writing = (
            folder / name for name in ("files", "results", "writing")
        )
        self._lock = threading.Lock()
        # The share of its steps that is behind a running item, as a list of one: a late note to an item that has ended
        # then changes what nobody sees.
        self._progress: dict[tuple[str, int], list[float]] = {}
        with naming(folder):
            for made in (folder, self._files, self._results, self._writing):
                made.mkdir(parents=True, exist_ok=True)
            sync(folder)
            self._db = open_database(folder)
            for left in self._writing.iterdir():
                remove(left)
        self.stored = self._measured()
        """Bytes of the files and results that are kept; after `expire` to the last byte, but for what comes while it runs."""

    def close(self) -> None:
        """Let go of the folder; nothing else may be called after it."""
        with self._lock:
            self._db.close()

    # -------------------------------------------------------------------------------------------------- files

    def temporary(self, suffix: str = "") -> Path:
        """Return a new path inside the store for a file that `add_file` or `finish` is to take; nothing is there yet."""
        return self._writing / f"{secrets.token_hex(16)}{suffix}"

    @contextmanager
    def new_file(self) -> Iterator[Path]:
        """A `temporary` path for an upload; what is there at the end, not taken by `add_file`, goes."""
        path = self.temporary()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def add_file(self, written: Path, lifetime_s: float) -> str:
        """Take a whole file from a `temporary` path, keep it for `lifetime_s` and return its id."""
        file = secrets.token_hex(16)
        with naming(self.folder):
            size = sync(written)
        with self._transaction() as db:
            db.execute("INSERT INTO files VALUES (?, ?)", (file, self._now() + lifetime_s))
            with moved(written, self._files / file):
                db.execute("COMMIT")
            self.stored += size
        return file

    def file(self, id: str) -> Path | None:
        """Return where a file is; None for one that is unknown, or has expired and is needed by no job."""
        with self._transaction() as db:
            return self._files / id if self._has_file(db, id) else None

    # --------------------------------------------------------------------------------------------------- jobs

    def add_job(
        self, items: Sequence[dict[str, Any]], lifetime_s: float, most_pending: float = math.inf
    ) -> str:
        """Keep a job of these items, all or none, and the files they name under `file` with it; return its id.

        Raises DataError, naming the line (from 1), where such a file is unknown or has expired, and Full where with them
        more than `most_pending` items would be queued or running.
        """
        if not items:
            raise DataError("the batch has no item, expected at least one line of JSON; send one.")
        job, now = secrets.token_hex(16), self._now()
        rows = [(job, index, json.dumps(item), steps_of(item)) for index, item in enumerate(items)]
        with self._transaction() as db:
            if (pending := self._pending(db)) + len(items) > most_pending:
                raise Full(f"{pending} items wait, at most {most_pending:g} do; try again later.")
            db.execute(
                "INSERT INTO jobs (id, created, lifetime_s, expires) VALUES (?, ?, ?, ?)",
                (job, now, lifetime_s, now + lifetime_s),
            )
            for line, item in enumerate(items, 1):
                if (file := item.get("file")) is not None:
                    self._pin(db, job, file, line)
            db.executemany("INSERT INTO items (job, position, item, steps) VALUES (?, ?, ?, ?)", rows)
        return job

    def cancel(self, id: str) -> JobState | None:
        """End what of a job is queued or running; return how it stands then, None where it is unknown."""
        with self._transaction() as db:
            if self._times_of(db, id) is None:
                return None
            running = db.execute(
                "SELECT position FROM items WHERE job = ? AND state = 'running'", (id,)
            ).fetchall()
            changed = db.execute(
                "UPDATE items SET state = 'cancelled' WHERE job = ? AND state IN ('queued', 'running')", (id,)
            )
            if changed.rowcount:
                self._prolong(db, id)
            for (index,) in running:
                self._progress.pop((id, index), None)
        return self.job(id)

    def job(self, id: str) -> JobState | None:
        """Return how a job stands, None for one that is unknown or has expired."""
        with self._transaction() as db:
            times = self._times_of(db, id)
            if times is None:
                return None
            counted = db.execute(
                f"SELECT state, count(*), sum(steps) FROM items WHERE job = ? AND state IN {STATES} GROUP BY state",
                (id,),
            ).fetchall()
            working = db.execute(
                "SELECT position, steps FROM items WHERE job = ? AND state = 'running'", (id,)
            )
            behind = sum(steps * self._share(id, index, "running") for index, steps in working)
            failed = self._items(db, id, "AND state = 'failed' ORDER BY position LIMIT ?", ERRORS_TOLD)
        items: dict[State, int] = dict.fromkeys(STATES, 0) | {state: count for state, count, _ in counted}
        behind += sum(steps for state, _, steps in counted if state in ("done", "failed"))
        progress = behind / sum(steps for _, _, steps in counted)
        return JobState(id, stage_of(items), *times, items, progress, failed)

    def items(self, id: str, offset: int, limit: int) -> list[ItemState] | None:
        """Return how up to `limit` items of a job stand, from number `offset` on; None where the job is unknown."""
        first, most = (min(max(value, 0), _LARGEST) for value in (offset, limit))
        with self._transaction() as db:
            if self._times_of(db, id) is None:
                return None
            return self._items(db, id, "AND position >= ? ORDER BY position LIMIT ?", first, most)

    def result(self, job: str, index: int) -> tuple[Path, dict[str, Any], str | None] | None:
        """Return where the result of an item that is done lies, the item, and what makes it again; else None.

        Of what was done under version 1 of the store nobody knows what makes it again.
        """
        with self._transaction() as db:
            if not 0 <= index <= _LARGEST or self._times_of(db, job) is None:
                return None
            row = db.execute(
                "SELECT suffix, item, recipe FROM items WHERE job = ? AND position = ? AND state = 'done'",
                (job, index),
            ).fetchone()
        return None if row is None else (self._path_of(job, index, row[0]), json.loads(row[1]), row[2])

    def pending(self) -> int:
        """Return how many items are queued or running."""
        with self._transaction() as db:
            return self._pending(db)

    def expire(self) -> int:
        """Delete the files and jobs that are over their lifetime, and what lies in the folder that no row knows of.

        A job that has items to do stays, with its files. Returns how many files and jobs went.
        """
        now = self._now()
        with self._transaction() as db:
            gone = db.execute(f"DELETE FROM jobs WHERE expires <= ? AND NOT {_LIVE}", (now,)).rowcount
            gone += db.execute(f"DELETE FROM files WHERE expires <= ? AND NOT {_PINNED}", (now,)).rowcount
            # Looked for while nothing can be added. Ids are never used again, so that removing may take its time.
            left = unknown_in(self._files, db.execute("SELECT id FROM files"))
            left += unknown_in(self._results, db.execute("SELECT id FROM jobs"))
            left += old_in(self._writing, now - ABANDONED_S)
        for path in left:
            remove(path)
        self.stored = self._measured()
        return gone

    # --------------------------------------------------------------------------------------------------- work

    def take(self) -> StoredItem | None:
        """Return an item, running from now on, None where none is queued.

        It is the first of the job that has the fewest running items; among such jobs, of the oldest.
        """
        with self._transaction() as db:
            row = db.execute(_NEXT).fetchone()
            if row is None:
                return None
            job, index, item, faults = row
            db.execute("UPDATE items SET state = 'running' WHERE job = ? AND position = ?", (job, index))
            self._progress[job, index] = [0.0]
        return StoredItem(job, index, json.loads(item), faults)

    def finish(self, job: str, index: int, result: Path, suffix: str, recipe: str) -> bool:
        """Take the whole result of a running item from a `temporary` path, and with it `recipe`, what makes it again.

        `suffix` is its ending, with a dot or without. Returns False, and removes the file, where the item runs no more: it
        was cancelled, given back or is done. After a DiskError the item still runs and the file is where it was. Raises
        OSError where there is no such file.
        """
        suffix = suffix.removeprefix(".")
        assert _SUFFIX.fullmatch(suffix), "a suffix is the name of a format"
        size = sync(result)
        with self._transaction() as db:
            running = self._end(db, job, index, "done", suffix=suffix, size=size, recipe=recipe)
            if running:
                target = self._path_of(job, index, suffix)
                if not target.parent.is_dir():
                    target.parent.mkdir()
                    sync(self._results)
                with moved(result, target):
                    db.execute("COMMIT")
                self.stored += size
        if not running:
            result.unlink(missing_ok=True)
        return running

    def fail(self, job: str, index: int, error: str) -> bool:
        """End a running item by a sentence for the client; False where it runs no more."""
        with self._transaction() as db:
            return self._end(db, job, index, "failed", error=error)

    def try_again(self, job: str, index: int, retries: int, error: str) -> bool:
        """Queue a running item again after a fault that is not its own, or end it by `error` after so many `retries`.

        The count outlives a restart. Returns True where it is queued again, False where it failed or runs no more.
        """
        with self._transaction() as db:
            again = db.execute(
                f"UPDATE items SET state = 'queued', faults = faults + 1 WHERE {_THE_RUNNING} AND faults < ?",
                (job, index, retries),
            ).rowcount
            if not again:
                self._end(db, job, index, "failed", error=error)
            self._progress.pop((job, index), None)
        return bool(again)

    def give_back(self, job: str, index: int) -> None:
        """Queue an item again if it is running: the service stops, or the fault is the service's alone."""
        with self._transaction() as db:
            db.execute(f"UPDATE items SET state = 'queued' WHERE {_THE_RUNNING}", (job, index))
            self._progress.pop((job, index), None)

    def progress(self, job: str, index: int, done: int, total: int) -> None:
        """Note that `done` of `total` sampler steps of a running item are behind; in memory, without waiting for the disk."""
        share = self._progress.get((job, index))
        if share is not None:
            share[0] = min(max(done / max(total, 1), 0.0), 1.0)

    def is_cancelled(self, job: str, index: int) -> bool:
        """Return whether an item need not be worked on any more."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT state FROM items WHERE job = ? AND position = ?", (job, index)
            ).fetchone()
        return row is None or row[0] == "cancelled"

    # ------------------------------------------------------------------------------------------------- within

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The database, for one thread: what is done to it counts at the end as a whole, after an error not at all."""
        with self._lock, naming(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _pending(self, db: sqlite3.Connection) -> int:
        query = "SELECT count(*) FROM items WHERE state IN ('queued', 'running')"
        count: int = db.execute(query).fetchone()[0]
        return count

    def _has_file(self, db: sqlite3.Connection, id: object) -> bool:
        if not isinstance(id, str) or not _ID.fullmatch(id):
            return False
        query = f"SELECT 1 FROM files WHERE id = ? AND (expires > ? OR {_PINNED})"
        return db.execute(query, (id, self._now())).fetchone() is not None

    def _pin(self, db: sqlite3.Connection, job: str, file: object, line: int) -> None:
        if not self._has_file(db, file):
            raise DataError(
                f"line {line} of the batch names a file that is unknown or has expired, expected the id of an uploaded one; "
                "upload it again and use the new id."
            )
        db.execute("INSERT OR IGNORE INTO pins (job, file) VALUES (?, ?)", (job, file))

    def _end(
        self, db: sqlite3.Connection, job: str, index: int, state: State, *,
        error: str | None = None, suffix: str | None = None, size: int | None = None, recipe: str | None = None,
    ) -> bool:  # fmt: skip
        """Move an item from running to `state`, False where it was not running."""
        if error is not None:
            error = error.encode("utf-8", "replace").decode()  # it may quote a name that is no text
        running = db.execute(
            f"UPDATE items SET state = ?, error = ?, suffix = ?, bytes = ?, recipe = ? WHERE {_THE_RUNNING}",
            (state, error, suffix, size, recipe, job, index),
        ).rowcount
        if running:
            self._prolong(db, job)
            self._progress.pop((job, index), None)
        return bool(running)

    def _prolong(self, db: sqlite3.Connection, job: str) -> None:
        db.execute("UPDATE jobs SET expires = max(expires, ? + lifetime_s) WHERE id = ?", (self._now(), job))

    def _times_of(self, db: sqlite3.Connection, id: str) -> tuple[float, float] | None:
        """Return when a job was made and expires, None where it is unknown or has expired."""
        if not _ID.fullmatch(id):
            return None
        query = f"SELECT created, expires FROM jobs WHERE id = ? AND (expires > ? OR {_LIVE})"
        row: tuple[float, float] | None = db.execute(query, (id, self._now())).fetchone()
        return row

    def _items(self, db: sqlite3.Connection, job: str, which: str, *values: int) -> list[ItemState]:
        query = f"SELECT position, item, state, error, bytes FROM items WHERE job = ? {which}"
        return [
            ItemState(index, json.loads(item).get("id"), state, error, self._share(job, index, state), size)
            for index, item, state, error, size in db.execute(query, (job, *values))
        ]

    def _share(self, job: str, index: int, state: State) -> float:
        """Return the share of an item's steps that need not be done any more; none where it was cancelled."""
        if state == "running":
            return self._progress.get((job, index), [0.0])[0]
        return 1.0 if state in ("done", "failed") else 0.0

    def _measured(self) -> int:
        return bytes_in(self._files) + bytes_in(self._results)

    def _path_of(self, job: str, index: int, suffix: str) -> Path:
        return self._results / job / f"{index}.{suffix}"
