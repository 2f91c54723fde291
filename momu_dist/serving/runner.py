"""Keeps the items of jobs in work, a bounded number at once, and tells the store what became of each."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from momu_dist.errors import DiskError, MomuError
from momu_dist.serving.store import Store
from momu_dist.serving.store_schema import StoredItem

log = logging.getLogger(__name__)

RETRIES = 3
"""How often an item is tried again after faults that are not its own, such as a replica that died."""

_LONGER = 4
"""Each pause after a fault is so many times the one before: a replica that died takes a minute to be back."""

OnProgress = Callable[[int, int], None]
"""Hears of sampler steps: (done, total)."""

Work = Callable[[StoredItem, OnProgress], Awaitable[tuple[Path, str, str]]]
"""Makes one item: (a whole file at a `Store.temporary` path, its suffix, what makes it again).

A MomuError from it is the item's fault and its sentence the client's answer. A DiskError is the service's: the item is
tried again, as often as it takes. Any other error counts as a fault of the attempt. When cancelled it should end soon:
its place is free at once, but a runner that stops waits for it.
"""


class Runner:
    """Takes items from `store` and has at most `at_once` in `work`, all on the event loop of `run`.

    It looks for something to do when woken, when an item ends and every `poll_s`; where the disk is full it waits `pause_s`
    before it tries again, and after the faults of an item `pause_s`, then longer. Items wait in their places, so that an
    outage of whatever makes them is not spent on the rest of the batch.
    """

    def __init__(
        self, store: Store, work: Work, at_once: int, poll_s: float = 0.2, pause_s: float = 5.0
    ) -> None:
        assert at_once > 0, "a runner that may do nothing"
        self._store, self._work, self._at_once = store, work, at_once
        self._poll_s, self._pause_s = poll_s, pause_s
        self._woken = asyncio.Event()
        self._at_work: dict[asyncio.Task[None], StoredItem] = {}
        self._trouble = ""
        self._looked = time.monotonic()

    def stalled_s(self) -> float:
        """Seconds since it last looked for something to do: far above `poll_s` where the store does not answer."""
        return time.monotonic() - self._looked

    def wake(self) -> None:
        """Have it look at once: a job was added or cancelled. To be called on its event loop."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled; what is in work then is cancelled too and given back to the store.

        Raises an ExceptionGroup where the store fails in a way that waiting does not mend, such as a damaged database.
        """
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._looked = time.monotonic()
                    self._woken.clear()
                    try:
                        await self._free_places()
                        await self._fill_places(group)
                    except DiskError as error:
                        self._tell(error)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._poll_s):
                            await self._woken.wait()
        finally:
            for item in self._at_work.values():  # an item that has ended stays as it is
                with suppress(DiskError):  # opening the store gives back what is left
                    await asyncio.to_thread(self._store.give_back, item.job, item.index)
            self._at_work = {}

    async def _free_places(self) -> None:
        """Let go of the tasks that have ended, and of those whose item was cancelled, however long they take to end."""
        self._at_work = {task: item for task, item in self._at_work.items() if not task.done()}
        for task in await asyncio.to_thread(self._cancelled, self._at_work):
            task.cancel()
            del self._at_work[task]

    def _cancelled(self, at_work: dict[asyncio.Task[None], StoredItem]) -> list[asyncio.Task[None]]:
        return [task for task, item in at_work.items() if self._store.is_cancelled(item.job, item.index)]

    async def _fill_places(self, group: asyncio.TaskGroup) -> None:
        while len(self._at_work) < self._at_once:
            item = await self._take()
            self._trouble = ""
            if item is None:
                return
            task = group.create_task(self._make(item))
            task.add_done_callback(lambda _: self._woken.set())
            self._at_work[task] = item

    async def _take(self) -> StoredItem | None:
        """Take an item on a thread; one that is taken although this is cancelled meanwhile is given back."""
        taking = asyncio.ensure_future(asyncio.to_thread(self._store.take))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(DiskError):
                if item := await taking:
                    await asyncio.to_thread(self._store.give_back, item.job, item.index)
            raise

    async def _make(self, item: StoredItem) -> None:
        """Make one item and tell the store what became of it. Nothing is told where this is cancelled."""
        of = (item.job, item.index)
        try:
            result, suffix, recipe = await self._work(item, partial(self._store.progress, *of))
            await self._persist(partial(self._store.finish, *of, result, suffix, recipe))
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            await self._retry(item, error)  # it was the work that was cancelled, by another
        except Exception as error:
            if _no_room(error):
                self._tell(error)
                await asyncio.sleep(self._pause_s)
                await self._persist(partial(self._store.give_back, *of))
            elif isinstance(error, MomuError):
                await self._persist(partial(self._store.fail, *of, str(error)))
            else:
                await self._retry(item, error)

    async def _retry(self, item: StoredItem, error: BaseException) -> None:
        log.warning("item %d of job %s: an attempt failed", item.index, item.job, exc_info=error)
        if item.faults < RETRIES:
            await asyncio.sleep(self._pause_s * _LONGER**item.faults)
        sentence = f"the service could not make it ({type(error).__name__})"
        await self._persist(partial(self._store.try_again, item.job, item.index, RETRIES, sentence))

    async def _persist(self, call: Callable[[], object]) -> None:
        """Call the store on a thread, again and again where it finds the disk full."""
        while True:
            try:
                await asyncio.to_thread(call)
                return
            except DiskError as error:
                self._tell(error)
                await asyncio.sleep(self._pause_s)

    def _tell(self, error: Exception) -> None:
        """Log what keeps the runner from going on, once until it goes on or something else does."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("jobs wait: %s", error)


def _no_room(error: Exception) -> bool:
    return isinstance(error, DiskError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
