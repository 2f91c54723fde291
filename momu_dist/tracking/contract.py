"""What training knows about a tracker: five calls that return at once and never raise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Receives what a run reports. No call waits for a server, and no outage reaches the caller."""

    def start(
        self,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> str:
        """Return the run's id, to be kept beside the checkpoint; given again as `run_id` it reopens the run.

        `params` is the resolved config, nested as it is; `tags` are short labels to search by.
        """
        ...

    def metrics(self, step: int, values: Mapping[str, float], time_s: float | None = None) -> None:
        """Record `values` by name at `step`, at a Unix time; now if None.

        What is recorded again with the same time counts once.
        """
        ...

    def artifact(self, local_path: str | Path, folder: str = "") -> None:
        """Record a file under `folder` of the run. It is read later: leave it where it is."""
        ...

    def model(self, name: str, export: str | Path, tags: Mapping[str, str]) -> None:
        """Record an export folder as a new version of the model `name`, found by `tags`. Leave the folder as it is."""
        ...

    def finish(self, status: Status = "FINISHED") -> None:
        """Close the run. Waits a bounded time for what is still on its way; the rest is kept for later."""
        ...
