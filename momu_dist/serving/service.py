"""What the service does with requests and items of jobs, whoever carries them: no HTTP and no Ray here."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from momu_dist.errors import DataError, MomuError
from momu_dist.inference.request import Task
from momu_dist.serving.items import Item, Settings
from momu_dist.serving.making import Made, Progress
from momu_dist.serving.settings import ServiceSettings
from momu_dist.serving.store import Store, StoredItem

_ITEM: TypeAdapter[Any] = TypeAdapter(Item)


class Busy(MomuError):
    """The queue is full; `retry_s` is when there may be room again."""

    def __init__(self, message: str, retry_s: int) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Late(MomuError):
    """A request took longer than it may."""


class Unavailable(Exception):
    """Nothing can be made now, through no fault of the request: no replica answers. It may be asked again."""


class Backend(Protocol):
    """Who reads uploads and makes samples: processes of Ray, or a play of them in tests."""

    async def read(
        self, task: Task, content: bytes, fps: float | None, longest_s: float
    ) -> dict[str, Any]: ...

    def make(
        self, task: Task, settings: Settings, inputs: dict[str, Any]
    ) -> AsyncIterator[Progress | Made]: ...

    async def describe(self) -> dict[str, Any]: ...


class Service:
    """Bounds on what is asked, and the way of one item through reading and making."""

    def __init__(self, settings: ServiceSettings, store: Store, backend: Backend) -> None:
        self.settings = settings
        self.store = store
        self.backend = backend
        self.inside = 0
        self._usual_s = 5.0

    def check(self, settings: Settings) -> None:
        """Raise DataError where an item asks for more than one client may."""
        limits = self.settings
        for name, value, most in (
            ("seconds", settings.seconds or 0.0, limits.max_seconds),
            ("steps", settings.steps, limits.max_steps),
            ("n", settings.n, limits.max_samples),
        ):
            if value > most:
                raise DataError(f"{name} is {value:g}, expected at most {most:g} here; ask for less.")

    @contextmanager
    def place(self, n: int) -> Iterator[None]:
        """Room for `n` samples while the body runs. Raises Busy where there is none."""
        if self.inside and self.inside + n > self.settings.queue:
            retry_s = max(1, min(60, math.ceil(self._usual_s)))
            raise Busy(
                f"{self.inside} samples are being made or wait, at most {self.settings.queue} do; try again in {retry_s} s.",
                retry_s,
            )
        self.inside += n
        began = time.monotonic()
        try:
            yield
            self._usual_s += 0.2 * (time.monotonic() - began - self._usual_s)
        finally:
            self.inside -= n

    def wake(self) -> None:
        """Called when there is something to do for jobs."""

    async def answer(self, task: Task, settings: Settings, sent: Awaitable[bytes]) -> Made:
        """What a request gets, whose body is `sent`. Raises Late past the deadline, and as `make`."""
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                return await self.make(task, settings, await sent, lambda done, total: None)
        except TimeoutError:
            raise Late(
                f"it took longer than {self.settings.deadline_s:g} s, the most that a request may take here; "
                "ask for less, or hand it in as a batch."
            ) from None

    async def make(
        self, task: Task, settings: Settings, content: bytes, on_progress: Callable[[int, int], None]
    ) -> Made:
        """Read the input of one item and make it, telling `on_progress` of sampling steps (done, in all).

        Raises DataError for an input that cannot be used, and Unavailable.
        """
        inputs: dict[str, Any] = {}
        if task != "joint":
            limits = self.settings
            longest_s = limits.max_seconds if settings.seconds is None else limits.max_input_s
            inputs = await self.backend.read(task, content, getattr(settings, "fps", None), longest_s)
        async with aclosing(self.backend.make(task, settings, inputs)) as said:  # type: ignore[type-var]
            async for word in said:
                if isinstance(word, Made):
                    return word
                on_progress(word.done, word.total)
        raise Unavailable("the models stopped without an answer; try again.")

    async def work(self, stored: StoredItem, on_progress: Callable[[int, int], None]) -> tuple[Path, str]:
        """Make one item of a job: the path of a finished temporary file, and how its name is to end."""
        item = _ITEM.validate_python(stored.item)
        content = b""
        if item.task != "joint":
            path = self.store.file(item.file)
            if path is None:
                raise DataError(f"file {item.file} is gone, expected it until the job ends; upload it again.")
            content = await asyncio.to_thread(path.read_bytes)
        made = await self.make(item.task, item, content, on_progress)
        return await asyncio.to_thread(self._written, made), made.suffix

    def _written(self, made: Made) -> Path:
        path = self.store.temporary()
        path.write_bytes(made.content)
        return path
