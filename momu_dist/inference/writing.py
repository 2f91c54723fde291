"""Files that appear whole or not at all; what stands against writing is one sentence that names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from momu_dist.errors import DataError
from momu_dist.inference.media import MEDIA_ERRORS


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what a full or read-only disk says while `path` is written into a DataError that names it.

    Some libraries say so without the system's error: then their own words are given.
    """
    try:
        yield
    except (OSError, *MEDIA_ERRORS) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise DataError(
            f"{path} cannot be written ({reason}), expected room and permission for it; make room, or give another "
            "output folder (--out)."
        ) from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path`, of the same ending, which becomes `path` when all is written and goes when that fails."""
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        with naming(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
