"""The tracker of `tracking.uri: none`: the run folder is the only record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from momu_dist.tracking.contract import Status


class NullTracker:
    """Takes everything and keeps nothing; ids are given out as by a real tracker."""

    def start(
        self,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> str:
        return run_id or uuid.uuid4().hex

    def metrics(self, step: int, values: Mapping[str, float], time_s: float | None = None) -> None:
        return None

    def artifact(self, local_path: str | Path, folder: str = "") -> None:
        return None

    def model(self, name: str, export: str | Path, tags: Mapping[str, str]) -> None:
        return None

    def finish(self, status: Status = "FINISHED") -> None:
        return None
