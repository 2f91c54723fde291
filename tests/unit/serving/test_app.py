"""What Ray is told of the process that speaks HTTP and owns the jobs. No Ray here."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from momu_dist.serving.app import Api

LIMIT_S = 20.0


def test_jobs_that_are_not_looked_after_any_more_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their runner waits for ever for a disk that does not answer; its task has not ended."""
    _, own, *_ = Api.func_or_class.__mro__  # type: ignore[attr-defined]  # without what Serve puts around it
    api = own({"checkpoint": ["run"], "state": str(tmp_path), "stall_s": 1.0}, MagicMock())
    free = threading.Event()

    async def told() -> str:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            try:
                api.check_health()
            except RuntimeError as error:
                return str(error)
            await asyncio.sleep(0.02)
        return ""

    async def main() -> None:
        await api._start()
        api.check_health()
        monkeypatch.setattr(api._store, "take", lambda: free.wait(LIMIT_S) and None)
        assert "jobs have not been looked after for" in await told()
        free.set()
        await api._stop()

    asyncio.run(main())
