"""What the store of the service keeps, and the database it keeps it in."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from momu_dist.errors import ConfigError, DataError, MomuError

State = Literal["queued", "running", "done", "failed", "cancelled"]
Stage = Literal["queued", "running", "done", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "done", "failed", "cancelled")

DDPM_STEPS = 1000
"""Of its schedule, all of which ddpm takes whatever is asked for."""

LOCK_S = 5.0  # a service that is being replaced may take a moment to go

VERSION = 2
SCHEMA = f"""
CREATE TABLE files (id TEXT PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
    age INTEGER PRIMARY KEY, -- counts up
    id TEXT NOT NULL UNIQUE, created REAL NOT NULL, lifetime_s REAL NOT NULL, expires REAL NOT NULL
);
CREATE TABLE pins ( -- the files that a job still needs
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    file TEXT NOT NULL REFERENCES files (id),
    PRIMARY KEY (file, job)
) WITHOUT ROWID;
CREATE INDEX pins_of_job ON pins (job);
CREATE TABLE items (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    item TEXT NOT NULL, -- JSON
    steps INTEGER NOT NULL, -- sampler steps of all its samples
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN {STATES}),
    faults INTEGER NOT NULL DEFAULT 0, -- attempts that failed by no fault of the item
    error TEXT, suffix TEXT, bytes INTEGER, recipe TEXT,
    PRIMARY KEY (job, position)
) WITHOUT ROWID;
CREATE INDEX items_by_state ON items (state, job, position, steps);
"""
_UPGRADES = {0: SCHEMA, 1: "ALTER TABLE items ADD COLUMN recipe TEXT;"}
"""What makes a store of a version, of which 0 is an empty one, one of ours."""


class Full(MomuError):
    """More items wait than may."""


@dataclass(frozen=True)
class StoredItem:
    """One item that was taken to be worked on: line `index`, from 0, of a job; `item` is its validated JSON.

    `faults` earlier attempts failed by no fault of its own.
    """

    job: str
    index: int
    item: dict[str, Any]
    faults: int = 0


@dataclass(frozen=True)
class ItemState:
    """How one item fares. `id` is the client's own name of it, `progress` the share of its steps that is behind, 0 to 1."""

    index: int
    id: str | None
    state: State
    error: str | None
    progress: float
    bytes: int | None


@dataclass(frozen=True)
class JobState:
    """How a job fares. Times are seconds since 1970; `items` counts them by state; `errors` are the first failed items.

    `expires` moves on with each item that ends, and a job that has items to do lives on after it.
    """

    id: str
    state: Stage
    created: float
    expires: float
    items: dict[State, int]
    progress: float
    errors: list[ItemState]


def open_database(folder: Path) -> sqlite3.Connection:
    """Open or make the database of the store in `folder`, for this process alone; items left running are queued again.

    Alone, as a second service would take for abandoned what the first is at work on. The system takes the lock from a
    process that dies. Raises ConfigError where another holds it, DataError where the file is not one of ours.
    """
    path = folder / "store.db"
    db = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except sqlite3.DatabaseError as error:
        db.close()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the detail above
        if code == sqlite3.SQLITE_BUSY:
            raise ConfigError(
                f"{folder} is in use by another service, expected a state folder for each; stop that service, or set "
                "another folder."
            ) from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise DataError(
                f"{path} is damaged or no SQLite database, expected the jobs of this service; move it away to begin anew."
            ) from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    for pragma in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        db.execute(f"PRAGMA {pragma}")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version in _UPGRADES:
        db.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[version]} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise DataError(
            f"{path} is a store of version {version}, expected {VERSION}; serve it with the momu_dist that made it, or set "
            "another state folder."
        )
    db.execute("UPDATE items SET state = 'queued' WHERE state = 'running'")


def stage_of(items: dict[State, int]) -> Stage:
    """Return how a job stands whose items are in these states."""
    if items["cancelled"]:
        return "cancelled"
    if not items["queued"] and not items["running"]:
        return "done"
    return "queued" if items["queued"] == sum(items.values()) else "running"


def steps_of(item: dict[str, Any]) -> int:
    """Return how many sampler steps the samples of an item take together; ddpm takes its own number of them."""
    steps = DDPM_STEPS if item.get("sampler") == "ddpm" else int(item.get("steps", 1))
    return max(steps * int(item.get("n", 1)), 1)
