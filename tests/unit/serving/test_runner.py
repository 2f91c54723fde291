"""The runner keeps a bounded number of items in work, and whatever ends an attempt, the store learns what it means."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from momu_dist.errors import ClipError, DiskError
from momu_dist.serving.runner import RETRIES, OnProgress, Runner, Work
from momu_dist.serving.store import Store
from momu_dist.serving.store_schema import StoredItem

LIFETIME_S = 1e6
SOON_S = 20.0
"""Longer than anything takes here on a busy machine."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state")
    yield store
    store.close()


def add_job(store: Store, count: int) -> str:
    return store.add_job([{"id": f"clip {i}"} for i in range(count)], LIFETIME_S)


def states(store: Store, job: str) -> list[str]:
    items = store.items(job, 0, 1000)
    assert items is not None
    return [item.state for item in items]


def errors(store: Store, job: str) -> list[str | None]:
    state = store.job(job)
    assert state is not None
    return [item.error for item in state.errors]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not holds():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(runner: Runner) -> Any:
    """The runner at work; stopped at the end."""
    task = asyncio.create_task(runner.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def written(store: Store, item: StoredItem) -> tuple[Path, str, str]:
    path = store.temporary(".txt")
    path.write_text(f"{item.job} {item.index}")
    return path, ".txt", f"recipe of {item.index}"


class Bench:
    """Work that waits until it is let go, and counts who is at it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.started: list[StoredItem] = []
        self.cancelled: list[StoredItem] = []
        self.at_work = self.most = 0
        self.open = asyncio.Event()

    async def __call__(self, item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
        self.started.append(item)
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        try:
            await self.open.wait()
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        finally:
            self.at_work -= 1
        return written(self.store, item)


def failing(store: Store, errors: list[BaseException]) -> tuple[Work, list[StoredItem]]:
    """Work whose first attempts fail by `errors`, and the attempts."""
    attempts: list[StoredItem] = []

    async def work(item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
        attempts.append(item)
        if len(attempts) <= len(errors):
            raise errors[len(attempts) - 1]
        return written(store, item)

    return work, attempts


def ended(store: Store) -> Callable[[], bool]:
    return lambda: store.pending() == 0


def run_to_the_end(store: Store, work: Work, pause_s: float = 0.001) -> None:
    async def main() -> None:
        async with running(Runner(store, work, at_once=2, poll_s=0.01, pause_s=pause_s)):
            await until(ended(store))

    asyncio.run(main())


# --------------------------------------------------------------------------------------------------------- places


def test_all_items_are_made_and_never_more_at_once_than_allowed(store: Store) -> None:
    job = add_job(store, 20)

    async def main() -> Bench:
        bench = Bench(store)
        async with running(Runner(store, bench, at_once=3)):
            await until(lambda: bench.at_work == 3)
            await asyncio.sleep(0.05)
            assert bench.at_work == 3
            bench.open.set()
            await until(ended(store))
        return bench

    bench = asyncio.run(main())
    assert bench.most == 3
    assert sorted(item.index for item in bench.started) == list(range(20))
    assert states(store, job) == ["done"] * 20
    for index in range(20):
        found = store.result(job, index)
        assert found is not None
        assert found[0].read_text() == f"{job} {index}" and found[2] == f"recipe of {index}"


def test_a_place_is_taken_again_as_soon_as_an_item_ends(store: Store) -> None:
    add_job(store, 5)

    async def main() -> None:
        bench = Bench(store)
        bench.open.set()
        async with running(Runner(store, bench, at_once=1, poll_s=1000)):
            await until(ended(store))

    asyncio.run(main())


def test_a_job_that_is_added_later_is_begun_when_woken(store: Store) -> None:
    async def main() -> None:
        bench = Bench(store)
        bench.open.set()
        runner = Runner(store, bench, at_once=1, poll_s=1000)
        async with running(runner):
            await asyncio.sleep(0.05)
            job = add_job(store, 1)
            runner.wake()
            await until(lambda: states(store, job) == ["done"])

    asyncio.run(main())


def test_a_job_that_is_added_later_is_found_without_a_word(store: Store) -> None:
    async def main() -> None:
        bench = Bench(store)
        bench.open.set()
        async with running(Runner(store, bench, at_once=1, poll_s=0.01)):
            await asyncio.sleep(0.05)
            job = add_job(store, 1)
            await until(lambda: states(store, job) == ["done"])

    asyncio.run(main())


def test_progress_is_told_while_the_item_is_made(store: Store) -> None:
    job = add_job(store, 1)

    async def main() -> None:
        seen = asyncio.Event()

        async def work(item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
            on_progress(10, 40)
            await seen.wait()
            return written(store, item)

        async with running(Runner(store, work, at_once=1)):
            await until(lambda: (state := store.job(job)) is not None and state.progress == 0.25)
            seen.set()
            await until(ended(store))

    asyncio.run(main())
    state = store.job(job)
    assert state is not None
    assert state.progress == 1.0


# --------------------------------------------------------------------------------------------------------- faults


def test_an_item_that_cannot_be_made_fails_with_the_sentence_at_once(store: Store) -> None:
    job = add_job(store, 1)
    work, attempts = failing(store, [ClipError("the music is silent.")])
    run_to_the_end(store, work)
    assert errors(store, job) == ["the music is silent."]
    assert len(attempts) == 1


@pytest.mark.parametrize("fault", [RuntimeError("/secret/path"), asyncio.CancelledError(), TimeoutError()])
def test_a_fault_that_goes_away_is_tried_through(store: Store, fault: BaseException) -> None:
    job = add_job(store, 1)
    work, attempts = failing(store, [fault] * RETRIES)
    run_to_the_end(store, work)
    assert states(store, job) == ["done"]
    assert len(attempts) == RETRIES + 1


def test_a_fault_that_stays_fails_the_item_without_its_details_and_the_others_are_made(store: Store) -> None:
    job = add_job(store, 4)
    attempts: list[int] = []

    async def work(item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
        attempts.append(item.index)
        if item.index == 1:
            raise RuntimeError("/secret/path")
        return written(store, item)

    run_to_the_end(store, work)
    assert states(store, job) == ["done", "failed", "done", "done"]
    assert errors(store, job) == ["the service could not make it (RuntimeError)"]
    assert attempts.count(1) == RETRIES + 1


def test_an_outage_is_waited_out_longer_each_time_and_not_spent_on_other_items(store: Store) -> None:
    job = add_job(store, 10)
    began_s = time.monotonic()
    attempts_s: list[float] = []

    async def work(item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
        attempts_s.append(time.monotonic() - began_s)
        if attempts_s[-1] < 0.3:
            raise ConnectionError
        return written(store, item)

    run_to_the_end(store, work, pause_s=0.05)  # after 0.05, 0.25 and 1.05 s
    assert states(store, job) == ["done"] * 10
    assert len([at_s for at_s in attempts_s if at_s < 0.3]) <= 2 * 3


def test_an_item_that_waits_after_a_fault_may_be_cancelled(store: Store) -> None:
    job = add_job(store, 1)
    work, attempts = failing(store, [RuntimeError()])

    async def main() -> None:
        runner = Runner(store, work, at_once=1, poll_s=1000, pause_s=1000)
        async with running(runner):
            await until(lambda: len(attempts) == 1)
            await asyncio.sleep(0.05)
            store.cancel(job)
            other = add_job(store, 1)
            runner.wake()
            await until(lambda: states(store, other) == ["done"])

    asyncio.run(main())
    assert states(store, job) == ["cancelled"]


def test_restarts_do_not_try_a_fault_for_ever(store: Store) -> None:
    job = add_job(store, 1)

    async def one_fault() -> None:
        begun = 0

        async def work(item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
            nonlocal begun
            begun += 1
            if begun == 2:
                await asyncio.sleep(1000)  # the service stops here
            raise RuntimeError

        async with running(Runner(store, work, at_once=1, poll_s=0.01, pause_s=0.001)):
            await until(lambda: begun == 2 or store.pending() == 0)

    for _ in range(RETRIES + 1):
        assert states(store, job) == ["queued"]
        asyncio.run(one_fault())
        store.close()
        store = Store(store.folder)
    assert states(store, job) == ["failed"]
    store.close()


def test_work_that_names_no_file_is_a_fault(store: Store) -> None:
    job = add_job(store, 1)

    async def work(item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
        return store.temporary(), ".txt", ""

    run_to_the_end(store, work)
    assert errors(store, job) == ["the service could not make it (FileNotFoundError)"]


@pytest.mark.parametrize(
    "fault", [DiskError("the disk is full."), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_full_disk_is_no_fault_of_the_item(store: Store, fault: Exception) -> None:
    job = add_job(store, 1)
    work, attempts = failing(store, [fault] * (3 * RETRIES))
    run_to_the_end(store, work)
    assert states(store, job) == ["done"]
    assert len(attempts) == 3 * RETRIES + 1


def test_a_result_waits_for_room_on_the_disk_and_is_not_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = add_job(store, 3)
    work, attempts = failing(store, [])
    replace, refused = os.replace, 0

    def full(source: Any, target: Any) -> None:
        nonlocal refused
        if refused < 6:
            refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    run_to_the_end(store, work, pause_s=0.01)
    assert states(store, job) == ["done"] * 3
    assert sorted(item.index for item in attempts) == [0, 1, 2]
    assert "No space left on device" in caplog.text


def test_a_store_that_cannot_be_read_for_a_while_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(store, 1)
    take, refused = store.take, list[int]()

    def reluctant() -> StoredItem | None:
        if len(refused) < 3:
            refused.append(1)
            raise DiskError("no room.")
        return take()

    monkeypatch.setattr(store, "take", reluctant)
    work, _ = failing(store, [])
    run_to_the_end(store, work)
    assert states(store, job) == ["done"]


def test_a_store_that_breaks_ends_the_run_loudly(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_job(store, 2)

    def broken(*_: object) -> bool:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(store, "finish", broken)
    monkeypatch.setattr(store, "try_again", broken)
    work, _ = failing(store, [])
    with pytest.raises(ExceptionGroup):
        asyncio.run(asyncio.wait_for(Runner(store, work, at_once=1, pause_s=0.001).run(), SOON_S))


# -------------------------------------------------------------------------------------------------- cancel and stop


def test_a_cancelled_job_frees_its_place_at_once_even_if_its_work_lingers(store: Store) -> None:
    lingering = add_job(store, 2)

    async def main() -> None:
        free = asyncio.Event()

        async def work(item: StoredItem, on_progress: OnProgress) -> tuple[Path, str, str]:
            if item.job == lingering:
                try:
                    await asyncio.sleep(1000)
                finally:
                    await free.wait()  # such as a step of the sampler that must end first
            return written(store, item)

        runner = Runner(store, work, at_once=1, poll_s=1000)
        async with running(runner):
            await until(lambda: states(store, lingering) == ["running", "queued"])
            await asyncio.sleep(0.05)
            store.cancel(lingering)
            other = add_job(store, 1)
            runner.wake()
            await until(lambda: states(store, other) == ["done"])
            free.set()

    asyncio.run(main())
    assert states(store, lingering) == ["cancelled", "cancelled"]


def test_a_cancel_is_found_without_a_word_and_its_work_hears_of_it(store: Store) -> None:
    job = add_job(store, 1)

    async def main() -> None:
        bench = Bench(store)
        async with running(Runner(store, bench, at_once=1, poll_s=0.01)):
            await until(lambda: bench.at_work == 1)
            store.cancel(job)
            await until(lambda: [item.job for item in bench.cancelled] == [job])

    asyncio.run(main())
    assert states(store, job) == ["cancelled"]


def test_a_stopped_runner_gives_back_what_it_has_and_another_one_makes_it(store: Store) -> None:
    job = add_job(store, 5)

    async def stopped(stop: Callable[[Bench], Awaitable[None]]) -> Bench:
        bench = Bench(store)
        async with running(Runner(store, bench, at_once=3, poll_s=0.01)) as task:
            await stop(bench)
        assert task.cancelled()
        return bench

    bench = asyncio.run(stopped(lambda bench: until(lambda: bench.at_work == 3)))
    assert len(bench.cancelled) == 3
    assert states(store, job) == ["queued"] * 5

    async def to_the_end(bench: Bench) -> None:
        bench.open.set()
        await until(ended(store))

    asyncio.run(stopped(to_the_end))
    assert states(store, job) == ["done"] * 5


def test_a_stop_in_the_middle_of_anything_leaves_nothing_running(store: Store) -> None:
    job = add_job(store, 400)

    async def main(until_s: float) -> None:
        bench = Bench(store)
        bench.open.set()
        async with running(Runner(store, bench, at_once=4)):
            await asyncio.sleep(until_s)

    for attempt in range(20):
        asyncio.run(main(0.002 * attempt))
        assert set(states(store, job)) <= {"queued", "done"}
    assert "done" in states(store, job)


def test_a_stop_while_an_item_is_being_taken_gives_it_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(store, 1)
    take, taking = store.take, []

    def slow() -> StoredItem | None:
        item = take()
        taking.append(item)
        time.sleep(0.1)
        return item

    monkeypatch.setattr(store, "take", slow)

    async def main() -> None:
        async with running(Runner(store, Bench(store), at_once=1)):
            await until(lambda: bool(taking))

    asyncio.run(main())
    assert states(store, job) == ["queued"]


def test_a_store_that_does_not_answer_is_seen_from_outside(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, take = threading.Event(), store.take

    def hanging() -> StoredItem | None:
        free.wait(SOON_S)
        return take()

    async def main() -> None:
        runner = Runner(store, failing(store, [])[0], at_once=1, poll_s=0.01)
        async with running(runner):
            await asyncio.sleep(0.3)
            await until(lambda: runner.stalled_s() < 0.2)
            monkeypatch.setattr(store, "take", hanging)
            await until(lambda: runner.stalled_s() > 0.3)
            free.set()
            await until(lambda: runner.stalled_s() < 0.2)

    asyncio.run(main())
