"""Shards on a node's own disk: what of a prepared set is copied there, and how. No torch, no Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def copy_shards(source: Path, target: Path, disk: Path, before_each: Callable[[], None]) -> None:
    """Copy shards to `target` below `disk`; OSError at the first that cannot be copied, or before any without room for all."""
    files = files_below(source)
    size, free = sum(file.stat().st_size for file in files), shutil.disk_usage(disk).free
    if size > free:
        raise OSError(f"it has {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there")
    for file in files:
        before_each()
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def files_below(source: Path) -> list[Path]:
    """Return the files of a prepared set without its latents, or of latents; OSError for a folder that cannot be read."""

    def fails(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for folder, below, names in os.walk(source, onerror=fails, followlinks=True):
        below[:] = [name for name in below if name != "latents" and not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return found
