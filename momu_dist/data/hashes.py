"""SHA-256 of files and folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from momu_dist.errors import CheckpointError


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file; a missing one is a CheckpointError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def folder_sha256(folder: Path) -> str:
    """Return the hex SHA-256 of the names and contents of all files under `folder`."""
    lines = [
        f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
