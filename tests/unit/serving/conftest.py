"""A service whose samples are played: everything but the models and Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from momu_dist.errors import DataError
from momu_dist.inference.request import Task
from momu_dist.serving.api import create_app, with_lifespan
from momu_dist.serving.items import Settings
from momu_dist.serving.making import Made, Progress
from momu_dist.serving.runner import Runner
from momu_dist.serving.service import Service, Unavailable
from momu_dist.serving.settings import settings_from
from momu_dist.serving.stepping import Kind
from momu_dist.serving.store import Store

Open = Callable[..., Any]


class Played:
    """A backend that answers `"<task>:<seed>"`; what it is to do besides is set on it (`deaths`: how often it dies)."""

    def __init__(self) -> None:
        self.asked: list[tuple[Task, Settings]] = []
        self.read_as: list[tuple[float | None, float, float | None]] = []
        self.hold: asyncio.Event | None = None
        self.closed = 0
        self.fault: Exception | None = None
        self.deaths = 0
        self.kinds: list[Kind] = []

    async def read(
        self, task: Task, content: bytes, fps: float | None, longest_s: float, seconds: float | None
    ) -> dict[str, Any]:
        self.read_as.append((fps, longest_s, seconds))
        if not content.startswith(b"good"):
            raise DataError("the upload is no music, expected some; send another.")
        return {"content": content, "fps": fps}

    async def make(
        self, task: Task, settings: Settings, inputs: dict[str, Any], kind: Kind
    ) -> AsyncIterator[Progress | Made]:
        self.asked.append((task, settings))
        self.kinds.append(kind)
        try:
            yield Progress(1, settings.steps)
            if self.hold:
                await self.hold.wait()
            if self.fault:
                raise self.fault
            if self.deaths:
                self.deaths -= 1
                raise Unavailable("the replica ended")
            recipe = {"task": task, "seed": settings.seed, "onsets_s": [0.1], "kinematic_beats_s": [0.2]}
            yield Made(
                f'"{task}:{settings.seed}"'.encode(), "zip" if settings.n > 1 else settings.format, [recipe]
            )
        finally:
            self.closed += 1

    async def describe(self) -> dict[str, Any]:
        if isinstance(self.fault, Unavailable):
            raise self.fault
        return {"checkpoint": ["runs/demo"], "weights": {"m2a": "0" * 64}}


@pytest.fixture()
def played() -> Played:
    return Played()


@pytest.fixture()
def opened(played: Played, tmp_path: Path) -> Open:
    """`with opened(queue=2, token="...") as client:` is a client of a running service."""

    @contextmanager
    def open_it(token: str | None = None, **settings: Any) -> Iterator[TestClient]:
        chosen = settings_from({"checkpoint": ["runs/demo"], "state": str(tmp_path / "state"), **settings})
        store = Store(Path(chosen.state))
        service = Service(chosen, store, played)
        runner = Runner(store, service.work, chosen.jobs_at_once, poll_s=0.02, pause_s=0.02)
        service.wake = runner.wake  # type: ignore[method-assign]
        tasks: list[asyncio.Task[None]] = []

        async def start() -> None:
            tasks.append(asyncio.create_task(runner.run()))

        async def stop() -> None:
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            store.close()

        with TestClient(create_app(service, token, with_lifespan(start, stop))) as client:
            client.service = service  # type: ignore[attr-defined]
            yield client

    return open_it
