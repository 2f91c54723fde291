"""What travels from training to the tracking server: small events that also fit on one line of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["start", "metrics", "artifact", "model", "finish"]


@dataclass(frozen=True)
class Event:
    """One call of a tracker. `time_ms` is the time of the call, so a late or repeated delivery changes nothing."""

    kind: Kind
    run_id: str
    time_ms: int
    body: dict[str, Any]


class Rejected(Exception):
    """The server was reached and will never take this event; every other exception means: try again later."""


class Backend(Protocol):
    """The one who knows the server."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Send `events` (one, or several `metrics` of one run) in order, or raise; sending again must be harmless."""
        ...


def batches(events: Iterable[Event], most: int = 500) -> Iterator[list[Event]]:
    """Yield `events` in order, neighbouring `metrics` of one run together (at most `most`), all others alone."""
    batch: list[Event] = []
    for event in events:
        joins = (
            bool(batch)
            and event.kind == batch[0].kind == "metrics"
            and event.run_id == batch[0].run_id
            and len(batch) < most
        )
        if batch and not joins:
            yield batch
            batch = []
        batch.append(event)
    if batch:
        yield batch


class Spool:
    """The events that could not be sent, oldest first, in a JSONL file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __bool__(self) -> bool:
        return self.path.exists()

    def append(self, events: Sequence[Event]) -> None:
        """Add `events` at the end and force them to disk; nothing happens for none."""
        if not events:
            return
        with self.path.open("a", encoding="utf-8") as file:
            if not self._ends_whole():
                file.write("\n")  # what a crash has torn takes no other event along
            file.writelines(json.dumps(asdict(event)) + "\n" for event in events)
            file.flush()
            os.fsync(file.fileno())

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def read(self, most: int) -> tuple[list[Event], int]:
        """Return the `most` oldest events and the number of lines they took; a line torn by a crash is left out."""
        if not self.path.exists():
            return [], 0
        events: list[Event] = []
        lines = 0
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in islice(file, most):
                lines += 1
                try:
                    events.append(Event(**json.loads(line)))
                except (ValueError, TypeError):
                    continue
        return events, lines

    def drop(self, lines: int) -> None:
        """Forget the `lines` oldest; the file goes when nothing is left."""
        with self.path.open("rb") as file:
            rest = list(islice(file, lines, None))
        if not rest:
            self.path.unlink()
            return
        partial = self.path.with_suffix(".tmp")
        partial.write_bytes(b"".join(rest))
        partial.replace(self.path)
