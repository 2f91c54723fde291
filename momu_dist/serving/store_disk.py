"""How the store writes its folder: a name for what went wrong, moves that hold, and the removal of what is left over."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from momu_dist.errors import DiskError


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turn what the system says against reading or writing the store (a full disk, no permission) into a DiskError."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DiskError(
            f"{folder} cannot be used ({reason}), expected room and permission to keep the jobs of the service there; make "
            "room, or set another state folder."
        ) from error


@contextmanager
def moved(source: Path, target: Path) -> Iterator[None]:
    """Move a file for good, or back where what has to go with it fails."""
    os.replace(source, target)
    try:
        sync(target.parent)
        yield
    except BaseException:
        with suppress(OSError):
            os.replace(target, source)
        raise


def sync(path: Path) -> int:
    """Have the system write a file, or the names in a folder, to the disk itself; return the size in bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; what cannot be removed now is left for the next time."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def bytes_in(folder: Path) -> int:
    """Return the size of all files under `folder`."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it may go meanwhile
            if path.is_file():
                total += path.stat().st_size
    return total


def unknown_in(folder: Path, known: Iterable[tuple[str]]) -> list[Path]:
    """Return what lies in `folder` under none of the names in `known`, rows of one column."""
    names = {name for (name,) in known}
    return [path for path in folder.iterdir() if path.name not in names]


def old_in(folder: Path, before: float) -> list[Path]:
    """Return what lies in `folder` and was last written before that time, in seconds since 1970."""
    old = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # whoever writes may have taken it away
            if path.stat().st_mtime < before:
                old.append(path)
    return old
