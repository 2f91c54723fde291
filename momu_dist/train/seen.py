"""The record of what a run was trained on (`train.record_samples`): every sample of every step, once, whatever happened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from momu_dist.core.tasks.base import Row
from momu_dist.train.loop import Feed


class RecordedFeed:
    """A feed that leaves a line a step in `folder`/rank-N.jsonl; lines of steps that are done again are dropped first."""

    def __init__(self, feed: Feed, folder: Path, rank: int, world_size: int) -> None:
        self.feed = feed
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.plan_fingerprint = feed.plan_fingerprint

    def steps(self, first: int, total: int) -> Iterator[Sequence[Row]]:
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.glob("rank-*.jsonl"):
            of = int(path.stem.removeprefix("rank-"))
            if of == self.rank or (self.rank == 0 and of >= self.world_size):
                _rewind(path, first)
        for step, rows in enumerate(self.feed.steps(first, total), start=first):
            samples = [[int(row["epoch"]), str(row["clip_id"])] for row in rows]
            with (self.folder / f"rank-{self.rank}.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "samples": samples}) + "\n")
            yield rows

    def validation(self) -> Sequence[Row]:
        return self.feed.validation()


def recorded_samples(folder: Path) -> dict[int, list[tuple[int, str]]]:
    """Return the samples (epoch, clip id) of each step over all workers, by step and in no promised order within it."""
    found: dict[int, list[tuple[int, str]]] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        for entry in map(_entry, path.read_text(errors="replace").splitlines()):
            if entry is not None:
                found.setdefault(entry["step"], []).extend((epoch, clip) for epoch, clip in entry["samples"])
    return dict(sorted(found.items()))


def _rewind(path: Path, first: int) -> None:
    """Drop the lines of step `first` and later, and what a crash cut off or made unreadable."""
    lines = [
        line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")
    ]
    temporary = path.with_suffix(".writing")
    kept = ((line, _entry(line)) for line in lines)
    temporary.write_text("".join(line for line, entry in kept if entry is not None and entry["step"] < first))
    temporary.replace(path)


def _entry(line: str) -> dict[str, Any] | None:
    """Return a line's step and samples; None for a line that holds none."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("step"), int) and "samples" in entry
    return entry if whole else None
