"""What the service does with requests and items of jobs, whoever carries them: no HTTP and no Ray here."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from momu_dist.errors import DataError, DiskError, MomuError
from momu_dist.inference.request import Task
from momu_dist.serving.items import ITEM, Settings
from momu_dist.serving.making import Made, Progress
from momu_dist.serving.runner import OnProgress
from momu_dist.serving.settings import ServiceSettings
from momu_dist.serving.stepping import Kind
from momu_dist.serving.store import Store, StoredItem

_TRIES, _PAUSE_S = 3, 0.5
_KEPT_AT_ONCE = 4
"""Uploads and batches that are checked and written at a time."""


class Busy(MomuError):
    """The queue is full; `retry_s` is when there may be room again."""

    def __init__(self, message: str, retry_s: int) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Late(MomuError):
    """A request took longer than it may."""


class Gone(DataError):
    """What an id names is not there, or not any more."""


class NoRoom(DiskError):
    """As much is kept as may be; nothing is wrong with the disk."""


class Unavailable(Exception):
    """Nothing can be made now, through no fault of the request: no replica answers. It may be asked again."""


class Backend(Protocol):
    """Who reads uploads and makes samples: processes of Ray, or a play of them in tests."""

    async def read(
        self, task: Task, content: bytes, fps: float | None, longest_s: float, seconds: float | None
    ) -> dict[str, Any]:
        """`reading.read_bytes`. Raises DataError, also where the upload ends its reader."""

    def make(
        self, task: Task, settings: Settings, inputs: dict[str, Any], kind: Kind
    ) -> AsyncIterator[Progress | Made]:
        """What one replica says of an item. Raises Unavailable where it dies, DataError where it refuses."""

    async def describe(self) -> dict[str, Any]:
        """What new requests are made with. Raises Unavailable while no replica is up."""


class Service:
    """Bounds on what is asked, and the way of one item through reading and making."""

    def __init__(self, settings: ServiceSettings, store: Store, backend: Backend) -> None:
        self.settings = settings
        self.store = store
        self.backend = backend
        self.inside = 0
        self._usual_s = 5.0
        # Items that replicas are at, and when any of them last came further.
        self._making, self._heard = 0, 0.0
        self._keeping = asyncio.Semaphore(_KEPT_AT_ONCE)

    def check(self, settings: Settings) -> None:
        """Raise DataError where an item asks for more than one client may."""
        limits = self.settings
        for name, value, most in (
            ("seconds", settings.seconds or 0.0, limits.max_seconds),
            ("steps", settings.steps_each, limits.max_steps),
            ("n", settings.n, limits.max_samples),
        ):
            if value > most:
                raise DataError(f"{name} is {value:g}, expected at most {most:g} here; ask for less.")

    def check_room(self, n: int) -> None:
        """Raise Busy where there is no room for `n` samples."""
        if self.inside and self.inside + n > self.settings.queue:
            retry_s = max(1, min(60, math.ceil(self._usual_s)))
            raise Busy(
                f"{self.inside} samples are being made or wait, at most {self.settings.queue} do; try again in {retry_s} s.",
                retry_s,
            )

    def check_stored(self) -> None:
        """Raise NoRoom where as much is kept as may be."""
        stored_gb = self.store.stored / 2**30
        if stored_gb >= self.settings.max_stored_gb:
            raise NoRoom(
                f"{stored_gb:.3g} GB of uploads and results are kept, at most {self.settings.max_stored_gb:g} are; try again "
                "when some have expired."
            )

    @contextmanager
    def _place(self, n: int) -> Iterator[None]:
        """Room for `n` samples while the body runs. Raises Busy where there is none."""
        self.check_room(n)
        self.inside += n
        began = time.monotonic()
        try:
            yield
            self._usual_s += 0.2 * (time.monotonic() - began - self._usual_s)
        finally:
            self.inside -= n

    async def check_ready(self) -> None:
        """Raise Unavailable where no replica answers, or all that are at work have come no further for `stall_s`."""
        stalled_s = time.monotonic() - self._heard if self._making else 0.0
        if stalled_s > self.settings.stall_s:
            raise Unavailable(f"no sampler has come further for {stalled_s:.0f} s; try again later.")
        await self.backend.describe()

    def wake(self) -> None:
        """Called when there is something to do for jobs."""

    async def answer(self, task: Task, settings: Settings, sent: Awaitable[bytes]) -> Made:
        """What a request gets, whose body is `sent`; another replica takes over from one that dies.

        It has no place in the queue before its body is there. The same seed gives the same sample. Raises Busy, Late past
        the deadline, DataError for an input that cannot be used, and Unavailable.
        """
        body = await sent
        with self._place(settings.n):
            async with self._in_time():
                inputs = await self._inputs(task, settings, body)
                del body  # some MB, for as long as it is sampled
                for _ in range(_TRIES - 1):
                    with suppress(Unavailable):
                        made = await self._made(task, settings, inputs, "request")
                        break
                    await asyncio.sleep(_PAUSE_S)
                else:
                    made = await self._made(task, settings, inputs, "request")
        return made

    async def work(self, stored: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
        """Make one item of a job: the path of a finished temporary file, how its name is to end, and `Made.recipe`.

        One try, as the runner tries again. Raises DataError for the item's own fault; NoRoom, TimeoutError past the deadline
        and Unavailable are not.
        """
        self.check_stored()
        item = ITEM.validate_python(stored.item)
        async with asyncio.timeout(self.settings.deadline_s):
            inputs = await self._inputs(item.task, item)
            made = await self._made(item.task, item, inputs, "job", on_progress)
        return await asyncio.to_thread(self._written, made), made.suffix, made.recipe

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """A turn for an upload or a batch, all of which has come; others wait. Raises NoRoom, and Late past the deadline."""
        async with self._in_time(), self._keeping:
            self.check_stored()
            yield

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                yield
        except TimeoutError:
            raise Late(
                f"it took longer than {self.settings.deadline_s:g} s, the most that a request may take here; "
                "ask for less, or hand it in as a batch."
            ) from None

    async def uploaded(self, id: str) -> bytes:
        """The content of an uploaded file. Raises Gone for one that is unknown or has expired."""
        try:
            path = await asyncio.to_thread(self.store.file, id)
            if path is not None:
                return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            pass  # it expired just now
        raise Gone(f"there is no file {id}, expected the id of an upload; upload it again.")

    async def _inputs(self, task: Task, settings: Settings, body: bytes = b"") -> dict[str, Any]:
        """What the models take: read from the uploaded file that is named, else from the body."""
        if task == "joint":
            return {}
        file = getattr(settings, "file", None)
        content = body if file is None else await self.uploaded(file)
        fps = getattr(settings, "fps", None)
        return await self.backend.read(task, content, fps, self.settings.max_seconds, settings.seconds)

    async def _made(
        self,
        task: Task,
        settings: Settings,
        inputs: dict[str, Any],
        kind: Kind,
        on_progress: OnProgress | None = None,
    ) -> Made:
        if not self._making:
            self._heard = time.monotonic()
        self._making += 1
        try:
            async with aclosing(self.backend.make(task, settings, inputs, kind)) as said:  # type: ignore[type-var]
                async for word in said:
                    self._heard = time.monotonic()
                    if isinstance(word, Made):
                        return word
                    if on_progress:
                        on_progress(word.done, word.total)
        finally:
            self._making -= 1
        raise Unavailable("the models stopped without an answer; try again.")

    def _written(self, made: Made) -> Path:
        path = self.store.temporary()
        try:
            path.write_bytes(made.content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path
