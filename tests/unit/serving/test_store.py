"""The store hands out each item once, keeps what it took on, and forgets it, on the disk too, when its time is over."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from momu_dist.errors import ConfigError, DataError, DiskError
from momu_dist.serving import store_schema
from momu_dist.serving.store import ABANDONED_S, Store
from momu_dist.serving.store_schema import Full, StoredItem

LIFETIME_S = 100.0
RECIPE = '{"seed": 1}'
HOSTILE = [
    "",
    "../store.db",
    "..",
    "/etc/passwd",
    "0" * 31,
    "0" * 33,
    "0" * 32 + "\n",
    "0" * 32 + "\ud800",  # no text that could be stored
    "A" * 32,
    "٠" * 32,  # digits, but of another script
    "\ud800" * 32,
    "0" * 31 + "\0",
    "' OR 1=1 --",
    "%" * 32,
]


class Clock:
    """Stands still until it is moved on."""

    def __init__(self) -> None:
        self.now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


class Failing:
    """A database connection on which one statement fails, as on a disk that is full."""

    def __init__(self, db: sqlite3.Connection, statement: str) -> None:
        self.db, self.statement = db, statement

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == self.statement:
            raise sqlite3.OperationalError("database or disk is full")
        return self.db.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(tmp_path / "state", clock)
    yield store
    store.close()


def reopened(store: Store, clock: Clock) -> Store:
    store.close()
    return Store(store.folder, clock)


def jobs_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"task": "joint", "id": f"clip {i}", "seconds": 5.0, "steps": 50, "n": 1, **more}
        for i in range(count)
    ]


def upload(store: Store, content: bytes = b"music", lifetime_s: float = LIFETIME_S) -> str:
    with store.new_file() as path:
        path.write_bytes(content)
        return store.add_file(path, lifetime_s)


def taken(store: Store) -> StoredItem:
    item = store.take()
    assert item is not None
    return item


def written(store: Store, content: bytes = b"result") -> Path:
    path = store.temporary(".mp4")
    path.write_bytes(content)
    return path


def finish(store: Store, item: StoredItem, content: bytes = b"result") -> bool:
    return store.finish(
        item.job, item.index, written(store, content), ".mp4", f"recipe of {content.decode()}"
    )


def states(store: Store, job: str) -> list[str]:
    items = store.items(job, 0, 1000)
    assert items is not None
    return [item.state for item in items]


def on_disk(store: Store) -> set[str]:
    """The files of the store besides its database."""
    paths = (path.relative_to(store.folder) for path in store.folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if not path.name.startswith("store.db")}


# ---------------------------------------------------------------------------------------------------------- files


def test_a_file_is_kept_whole_under_a_random_id(store: Store) -> None:
    one, other = upload(store, b"one"), upload(store, b"other")
    assert one != other
    path = store.file(one)
    assert path is not None
    assert path.read_bytes() == b"one"
    assert on_disk(store) == {f"files/{one}", f"files/{other}"}


def test_an_upload_that_breaks_off_leaves_nothing(store: Store) -> None:
    with pytest.raises(ConnectionError), store.new_file() as path:
        path.write_bytes(b"half")
        raise ConnectionError
    assert on_disk(store) == set()


@pytest.mark.parametrize("id", HOSTILE)
def test_an_id_that_was_not_given_out_is_unknown(store: Store, id: str) -> None:
    upload(store)
    store.add_job(jobs_of(1), LIFETIME_S)
    assert finish(store, taken(store))
    assert store.file(id) is None
    assert store.job(id) is None
    assert store.items(id, 0, 10) is None
    assert store.result(id, 0) is None
    assert store.cancel(id) is None
    with pytest.raises(DataError, match="line 1 of the batch names a file that is unknown"):
        store.add_job(jobs_of(1, file=id), LIFETIME_S)


def test_an_id_in_the_wrong_case_is_unknown(store: Store) -> None:
    ids = ((upload(store), store.add_job(jobs_of(1), LIFETIME_S)) for _ in range(100))
    file, job = next((file, job) for file, job in ids if not file.isdigit() and not job.isdigit())
    assert store.file(file) is not None
    assert store.job(job) is not None
    assert store.file(file.upper()) is None
    assert store.job(job.upper()) is None
    assert store.file(job) is None
    assert store.job(file) is None


def test_numbers_that_no_item_has_are_unknown(store: Store) -> None:
    job = store.add_job(jobs_of(2), LIFETIME_S)
    assert finish(store, taken(store))
    for index in (-1, 1, 2, 2**63, -(2**63) - 1, 10**40):
        assert store.result(job, index) is None
    assert store.items(job, 10**40, 10**40) == []
    assert [item.index for item in store.items(job, -(10**40), 10) or []] == [0, 1]


# ----------------------------------------------------------------------------------------------------------- jobs


def test_no_more_items_wait_than_may(store: Store) -> None:
    store.add_job(jobs_of(3), LIFETIME_S, most_pending=5)
    taken(store)
    with pytest.raises(Full, match="3 items wait, at most 5"):
        store.add_job(jobs_of(3), LIFETIME_S, most_pending=5)
    store.add_job(jobs_of(2), LIFETIME_S, most_pending=5)
    assert store.pending() == 5


def test_a_job_tells_how_it_and_its_items_stand(store: Store, clock: Clock) -> None:
    job = store.add_job(jobs_of(3) + jobs_of(1, steps=100, n=2), LIFETIME_S)  # 50, 50, 50 and 200 steps
    state = store.job(job)
    assert state is not None
    assert (state.id, state.state, state.progress, state.errors) == (job, "queued", 0.0, [])
    assert (state.created, state.expires) == (clock.now_s, clock.now_s + LIFETIME_S)

    assert finish(store, taken(store))
    failed = taken(store)
    assert store.fail(failed.job, failed.index, "the music is silent \udcff.")
    taken(store)
    running = taken(store)
    store.progress(running.job, running.index, 100, 200)
    state = store.job(job)
    assert state is not None
    assert state.state == "running"
    assert state.items == {"queued": 0, "running": 2, "done": 1, "failed": 1, "cancelled": 0}
    assert state.progress == pytest.approx((50 + 50 + 100) / 350)
    assert [(item.index, item.id, item.error) for item in state.errors] == [
        (1, "clip 1", "the music is silent ?.")
    ]
    items = store.items(job, 0, 10)
    assert items is not None
    assert [item.progress for item in items] == [1.0, 1.0, 0.0, 0.5]
    assert [item.bytes for item in items] == [6, None, None, None]
    assert store.items(job, 2, 1) == [items[2]]


def test_a_job_is_done_when_all_its_items_are_and_gives_their_results(store: Store) -> None:
    job = store.add_job(jobs_of(2), LIFETIME_S)
    assert store.result(job, 0) is None
    for _ in range(2):
        item = taken(store)
        assert store.result(job, item.index) is None
        assert finish(store, item, f"result {item.index}".encode())
    state = store.job(job)
    assert state is not None
    assert (state.state, state.progress, store.pending()) == ("done", 1.0, 0)
    for index in range(2):
        found = store.result(job, index)
        assert found is not None
        path, item_of, recipe = found
        assert path.read_bytes() == f"result {index}".encode() and recipe == f"recipe of result {index}"
        assert path.suffix == ".mp4"
        assert item_of == jobs_of(2)[index]
    assert on_disk(store) == {f"results/{job}/0.mp4", f"results/{job}/1.mp4"}


def test_a_job_is_kept_as_a_whole_or_not_at_all(store: Store, clock: Clock) -> None:
    old = upload(store, lifetime_s=1)
    clock.now_s += 1
    for file in (old, "0" * 32):
        with pytest.raises(DataError, match="line 3 of the batch .* unknown or has expired"):
            store.add_job(jobs_of(2) + jobs_of(1, file=file), LIFETIME_S)
    with pytest.raises(DataError, match="no item"):
        store.add_job([], LIFETIME_S)
    assert store.pending() == 0
    assert store.take() is None


def test_pending_counts_what_is_queued_or_running(store: Store) -> None:
    store.add_job(jobs_of(2), LIFETIME_S)
    job = store.add_job(jobs_of(2), LIFETIME_S)
    assert store.pending() == 4
    item = taken(store)
    assert store.pending() == 4
    finish(store, item)
    assert store.pending() == 3
    store.cancel(job)
    assert store.pending() == 1


# ---------------------------------------------------------------------------------------------------------- taking


def test_no_item_is_taken_twice_by_many_threads(store: Store) -> None:
    jobs = [store.add_job(jobs_of(30), LIFETIME_S) for _ in range(4)]
    found: list[StoredItem] = []

    def take_all() -> None:
        while (item := store.take()) is not None:
            found.append(item)

    threads = [threading.Thread(target=take_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter((item.job, item.index) for item in found) == {
        (job, i): 1 for job in jobs for i in range(30)
    }
    assert all(item.item == jobs_of(30)[item.index] for item in found)


def test_a_small_job_does_not_wait_for_a_large_one(store: Store) -> None:
    large, small = store.add_job(jobs_of(6), LIFETIME_S), store.add_job(jobs_of(2), LIFETIME_S)
    order = [(item.job, item.index) for item in (taken(store) for _ in range(8))]
    assert order[:4] == [(large, 0), (small, 0), (large, 1), (small, 1)]
    assert order[4:] == [(large, i) for i in range(2, 6)]


def test_the_job_with_the_fewest_running_items_is_next(store: Store) -> None:
    first, second = store.add_job(jobs_of(4), LIFETIME_S), store.add_job(jobs_of(4), LIFETIME_S)
    running = [taken(store) for _ in range(4)]
    for item in running:
        if item.job == second:
            assert finish(store, item)
    assert [taken(store).job for _ in range(2)] == [second, second]
    store.give_back(first, 1)
    assert (taken(store).job, taken(store).job) == (first, first)


# ------------------------------------------------------------------------------------------------------ done once


def test_an_item_is_done_once(store: Store) -> None:
    job = store.add_job(jobs_of(1), LIFETIME_S)
    item = taken(store)
    assert finish(store, item, b"first")
    assert not finish(store, item, b"second")
    assert not store.fail(job, 0, "too late")
    assert not store.try_again(job, 0, 3, "too late")
    store.give_back(job, 0)
    store.cancel(job)
    assert store.take() is None
    assert states(store, job) == ["done"]
    found = store.result(job, 0)
    assert found is not None
    assert found[0].read_bytes() == b"first" and found[2] == "recipe of first"
    assert on_disk(store) == {f"results/{job}/0.mp4"}


def test_what_is_given_back_is_taken_again_and_its_late_result_is_refused(store: Store) -> None:
    job = store.add_job(jobs_of(1), LIFETIME_S)
    item = taken(store)
    store.progress(job, 0, 3, 4)
    store.give_back(job, 0)
    store.progress(job, 0, 4, 4)  # of work that has not heard of it
    assert not finish(store, item)
    assert states(store, job) == ["queued"]
    assert taken(store) == item
    state = store.job(job)
    assert state is not None
    assert state.progress == 0.0
    assert on_disk(store) == set()


def test_a_cancelled_job_has_nothing_to_do_and_keeps_what_is_done(store: Store) -> None:
    job = store.add_job(jobs_of(3), LIFETIME_S)
    done, running = taken(store), taken(store)
    assert finish(store, done)
    assert not store.is_cancelled(job, running.index)
    state = store.cancel(job)
    assert state is not None
    assert state.state == "cancelled"
    assert states(store, job) == ["done", "cancelled", "cancelled"]
    assert store.is_cancelled(job, running.index)
    assert not store.is_cancelled(job, done.index)
    assert not finish(store, running)
    assert not store.fail(job, running.index, "late")
    store.give_back(job, running.index)
    assert store.take() is None
    assert states(store, job) == ["done", "cancelled", "cancelled"]
    assert store.result(job, 0) is not None
    assert on_disk(store) == {f"results/{job}/0.mp4"}


def test_a_cancel_and_a_result_at_once_agree_on_what_happened(store: Store) -> None:
    for _ in range(40):
        job = store.add_job(jobs_of(1), LIFETIME_S)
        item, result, start = taken(store), written(store), threading.Barrier(2)
        finished: list[bool] = []

        def finish_it(
            item: StoredItem = item, result: Path = result, start: threading.Barrier = start,
            finished: list[bool] = finished,
        ) -> None:  # fmt: skip
            start.wait()
            finished.append(store.finish(item.job, item.index, result, "mp4", RECIPE))

        thread = threading.Thread(target=finish_it)
        thread.start()
        start.wait()
        state = store.cancel(job)
        thread.join()
        assert state is not None
        assert state.state == ("done" if finished == [True] else "cancelled")
        assert states(store, job) == [state.state]
        assert (store.result(job, 0) is not None) == finished[0]
        assert (f"results/{job}/0.mp4" in on_disk(store)) == finished[0]
        assert not result.exists()


# --------------------------------------------------------------------------------------------------------- expiry


def test_a_file_expires_with_its_bytes(store: Store, clock: Clock) -> None:
    short, long = upload(store), upload(store, lifetime_s=2 * LIFETIME_S)
    clock.now_s += LIFETIME_S - 1
    assert store.expire() == 0
    assert store.file(short) is not None
    clock.now_s += 1
    assert store.file(short) is None
    assert store.expire() == 1
    assert on_disk(store) == {f"files/{long}"}
    assert store.file(long) is not None


def test_a_job_expires_with_its_results_and_the_files_it_needed(store: Store, clock: Clock) -> None:
    file = upload(store, lifetime_s=1)
    job = store.add_job(jobs_of(2, file=file), LIFETIME_S)
    for _ in range(2):
        assert finish(store, taken(store))
    clock.now_s += LIFETIME_S - 1
    assert store.expire() == 0
    assert store.file(file) is not None  # it is the job's as long as the job is
    clock.now_s += 1
    assert store.job(job) is None
    assert store.items(job, 0, 10) is None
    assert store.result(job, 0) is None
    assert store.cancel(job) is None
    assert store.expire() == 2
    assert on_disk(store) == set()
    assert store.expire() == 0


def test_a_job_with_items_to_do_never_expires_nor_do_its_files(store: Store, clock: Clock) -> None:
    file = upload(store, lifetime_s=1)
    job = store.add_job(jobs_of(2, file=file), LIFETIME_S)
    assert finish(store, taken(store))
    clock.now_s += 10 * LIFETIME_S
    assert store.expire() == 0  # one is queued
    last = taken(store)
    assert store.expire() == 0  # one is running
    assert store.job(job) is not None
    path = store.file(file)
    assert path is not None
    assert path.read_bytes() == b"music"
    assert store.result(job, 0) is not None
    assert finish(store, last)
    state = store.job(job)
    assert state is not None
    assert state.expires == clock.now_s + LIFETIME_S  # a client has the whole lifetime to fetch it
    assert store.expire() == 0
    clock.now_s += LIFETIME_S
    assert store.expire() == 2
    assert on_disk(store) == set()


def test_a_cancelled_job_expires_a_lifetime_after_it_was_cancelled(store: Store, clock: Clock) -> None:
    job = store.add_job(jobs_of(3), LIFETIME_S)
    taken(store)
    clock.now_s += LIFETIME_S
    store.cancel(job)
    clock.now_s += LIFETIME_S - 1
    assert store.expire() == 0
    clock.now_s += 1
    assert store.expire() == 1
    assert store.is_cancelled(job, 0)  # who still works on it may stop


def test_what_no_row_knows_of_goes_from_the_disk_and_nothing_else(store: Store, clock: Clock) -> None:
    file, job = upload(store), store.add_job(jobs_of(2), LIFETIME_S)
    assert finish(store, taken(store))
    stale, fresh = written(store), written(store)
    os.utime(stale, (clock.now_s, clock.now_s - ABANDONED_S - 1))
    os.utime(fresh, (clock.now_s, clock.now_s - ABANDONED_S + 1))
    (store.folder / "files" / ("f" * 32)).write_bytes(b"orphan")
    (store.folder / "results" / ("e" * 32)).mkdir()
    (store.folder / "results" / ("e" * 32) / "0.wav").write_bytes(b"orphan")
    outside = store.folder.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    (store.folder / "results" / "link").symlink_to(outside)
    assert store.expire() == 0
    assert on_disk(store) == {f"files/{file}", f"results/{job}/0.mp4", f"writing/{fresh.name}"}
    assert not (store.folder / "results" / "link").is_symlink()
    assert (outside / "kept").exists()
    assert finish(store, taken(store))


def test_nothing_that_is_added_while_others_expire_is_lost(store: Store) -> None:
    stop = threading.Event()

    def expire() -> None:
        while not stop.is_set():
            store.expire()

    thread = threading.Thread(target=expire)
    thread.start()
    try:
        files = [upload(store, str(i).encode()) for i in range(40)]
        job = store.add_job([item for file in files for item in jobs_of(1, file=file)], LIFETIME_S)
        for _ in files:
            assert finish(store, taken(store))
    finally:
        stop.set()
        thread.join()
    assert on_disk(store) == {f"files/{file}" for file in files} | {
        f"results/{job}/{i}.mp4" for i in range(40)
    }


# ------------------------------------------------------------------------------------------------------- restarts


def test_what_was_running_is_queued_again_after_a_restart(store: Store, clock: Clock) -> None:
    file = upload(store)
    job = store.add_job(jobs_of(4, file=file), LIFETIME_S)
    cancelled = store.add_job(jobs_of(1), LIFETIME_S)
    assert finish(store, taken(store))
    store.cancel(cancelled)
    failed = taken(store)
    store.fail(job, failed.index, "no music")
    running = taken(store)
    left = written(store)
    before = store.job(job)
    store = reopened(store, clock)
    assert states(store, job) == ["done", "failed", "queued", "queued"]
    assert states(store, cancelled) == ["cancelled"]
    assert before is not None
    after = store.job(job)
    assert after is not None
    assert (after.created, after.errors) == (before.created, before.errors)
    assert taken(store) == running
    assert not left.exists()
    path = store.file(file)
    assert path is not None
    assert path.read_bytes() == b"music"
    store.close()


def test_an_item_is_tried_again_so_often_and_no_oftener_whatever_restarts(store: Store, clock: Clock) -> None:
    job = store.add_job(jobs_of(1), LIFETIME_S)
    for faults in range(3):
        assert taken(store).faults == faults
        assert store.try_again(job, 0, 3, "the service could not make it (OSError)")
        assert states(store, job) == ["queued"]
        taken(store)
        store.give_back(job, 0)  # does not count
        store = reopened(store, clock)
    taken(store)
    assert not store.try_again(job, 0, 3, "the service could not make it (OSError)")
    assert states(store, job) == ["failed"]
    state = store.job(job)
    assert state is not None
    assert [item.error for item in state.errors] == ["the service could not make it (OSError)"]
    store.close()


def test_two_services_cannot_have_one_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_schema, "LOCK_S", 0.0)
    job = store.add_job(jobs_of(1), LIFETIME_S)
    taken(store)
    with pytest.raises(ConfigError, match="in use by another service"):
        Store(store.folder)
    assert states(store, job) == ["running"]


def test_a_folder_of_another_version_is_left_alone(store: Store) -> None:
    store.close()
    database = sqlite3.connect(store.folder / "store.db")
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(DataError, match="is a store of version 7, expected 2"):
        Store(store.folder)


def test_a_store_that_knew_no_recipes_goes_on_with_its_jobs(store: Store, clock: Clock) -> None:
    job = store.add_job(jobs_of(2), LIFETIME_S)
    assert finish(store, taken(store), b"before")
    store.close()
    database = sqlite3.connect(store.folder / "store.db", isolation_level=None)
    database.execute("ALTER TABLE items DROP COLUMN recipe")  # which makes it one of version 1
    database.execute("PRAGMA user_version = 1")
    database.close()
    for _ in range(2):  # it is of this version from then on
        store = reopened(store, clock)
    assert finish(store, taken(store), b"since")
    found = [store.result(job, index) for index in range(2)]
    assert [one and (one[0].read_bytes(), one[2]) for one in found] == [
        (b"before", None),
        (b"since", "recipe of since"),
    ]
    store.close()


def test_a_file_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(DataError, match="no SQLite database"):
        Store(tmp_path)


# ----------------------------------------------------------------------------------------------------------- disk


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match=r"cannot be used \(Not a directory\)"):
        Store(tmp_path / "file" / "state")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "store.db").mkdir()
    with pytest.raises(DiskError, match="unable to open database"):
        Store(tmp_path / "taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DiskError, match="Permission denied"):
        Store(tmp_path / "state")


def test_a_result_that_finds_the_disk_full_is_not_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.add_job(jobs_of(1), LIFETIME_S)
    item, result = taken(store), written(store)

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DiskError, match="No space left on device"):
            store.finish(job, 0, result, ".mp4", RECIPE)
    assert states(store, job) == ["running"]
    assert store.result(job, 0) is None
    assert store.finish(item.job, item.index, result, ".mp4", RECIPE)
    assert states(store, job) == ["done"]


def test_a_result_whose_row_cannot_be_written_is_not_lost(store: Store, clock: Clock) -> None:
    job = store.add_job(jobs_of(2), LIFETIME_S)
    for item in (taken(store), taken(store)):
        result, db = written(store), store._db
        store._db = Failing(db, "COMMIT")  # type: ignore[assignment]
        with pytest.raises(DiskError, match="database or disk is full"):
            store.finish(job, item.index, result, ".mp4", RECIPE)
        store._db = db
        assert store.result(job, item.index) is None
        assert result.exists()
        if item.index == 0:
            assert store.finish(job, item.index, result, ".mp4", RECIPE)
    store = reopened(store, clock)
    assert states(store, job) == ["done", "queued"]
    assert taken(store).index == 1
    store.close()


def test_a_file_whose_row_cannot_be_written_is_not_there(store: Store) -> None:
    db = store._db
    store._db = Failing(db, "COMMIT")  # type: ignore[assignment]
    with pytest.raises(DiskError):
        upload(store)
    store._db = db
    assert on_disk(store) == set()


def test_a_database_that_cannot_grow_keeps_what_it_has(store: Store) -> None:
    job = store.add_job(jobs_of(2), LIFETIME_S)
    taken(store)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskError, match="full"):
        store.fail(job, 0, "long " * 10_000)
    with pytest.raises(DiskError, match="full"):
        store.add_job(jobs_of(1000), LIFETIME_S)
    assert states(store, job) == ["running", "queued"]
    assert store.pending() == 2
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.fail(job, 0, "long " * 10_000)
    assert states(store, job) == ["failed", "queued"]


def test_a_result_that_is_not_there_is_no_fault_of_the_disk(store: Store) -> None:
    job = store.add_job(jobs_of(1), LIFETIME_S)
    taken(store)
    with pytest.raises(FileNotFoundError):
        store.finish(job, 0, store.temporary(), ".mp4", RECIPE)
    assert states(store, job) == ["running"]


def test_it_knows_how_much_it_keeps(tmp_path: Path) -> None:
    """From uploads and results, also after it was opened again and when some has gone."""
    clock = Clock()
    store = Store(tmp_path, clock)
    assert store.stored == 0
    with store.new_file() as path:
        path.write_bytes(b"12345")
        store.add_file(path, LIFETIME_S)
    job = store.add_job([{}], 2 * LIFETIME_S)
    store.take()
    result = store.temporary()
    result.write_bytes(b"123")
    assert store.finish(job, 0, result, "wav", RECIPE) and store.stored == 8
    store.close()
    store = Store(tmp_path, clock)
    assert store.stored == 8
    clock.now_s += 1.5 * LIFETIME_S
    store.expire()
    assert store.stored == 3
    store.close()
