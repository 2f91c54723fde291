"""The watch names the worker that the others wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from momu_dist.train import watch as module
from momu_dist.train.watch import Watch


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "ANSWER_S", 0.3)
    yield


class Worker:
    """One rank's watch with what it told and whether it was to be restarted."""

    def __init__(self, folder: Path, rank: int, world_size: int, limit_s: float = 0.2) -> None:
        self.told: list[str] = []
        self.restarted = threading.Event()
        self.watch = Watch(folder, rank, world_size, limit_s, self.told.append, self.restarted.set)


def pass_places(worker: Worker, n: int) -> None:
    for i in range(n):
        worker.watch.reached(i // 3, f"place {i % 3}")


def test_progress_keeps_it_quiet(tmp_path: Path) -> None:
    worker = Worker(tmp_path, 0, 1, limit_s=0.5)
    with worker.watch:
        for i in range(20):
            worker.watch.reached(i, "computing")
            time.sleep(0.05)
    assert not worker.told and not worker.restarted.is_set() and not list(tmp_path.iterdir())


def test_the_worker_that_has_passed_fewest_places_is_named_once(tmp_path: Path) -> None:
    fast, slow = Worker(tmp_path, 0, 2), Worker(tmp_path, 1, 2)
    with fast.watch, slow.watch:
        pass_places(fast, 8)
        pass_places(slow, 5)
        assert fast.restarted.wait(10) and slow.restarted.wait(10)
    (text,) = fast.told
    assert "rank 1 at step 1, place 1" in text and "the workers are restarted" in text and not slow.told
    stacks = sorted(tmp_path.glob("*-rank-*.txt"))
    assert len(stacks) == 2 and all("test_watch.py" in path.read_text() for path in stacks)


def test_workers_in_the_same_place_are_all_named(tmp_path: Path) -> None:
    workers = [Worker(tmp_path, rank, 2) for rank in range(2)]
    with workers[0].watch, workers[1].watch:
        for worker in workers:
            pass_places(worker, 4)
        assert workers[0].restarted.wait(10)
    assert "ranks 0, 1 at step 1, place 0" in workers[0].told[0]


def test_a_worker_that_does_not_answer_is_named_by_the_first_that_does(tmp_path: Path) -> None:
    (tmp_path / "answer-1.json").write_text('{"passed": 1, "place": "of an attempt before"}')
    workers = [Worker(tmp_path, rank, 3) for rank in (1, 2)]
    with workers[0].watch, workers[1].watch:
        assert workers[0].restarted.wait(10) and workers[1].restarted.wait(10)
    assert "rank 0 without a sign of life" in workers[0].told[0] and not workers[1].told


def test_where_nobody_restarts_it_is_told_once_and_the_worker_lives(tmp_path: Path) -> None:
    told: list[str] = []
    with Watch(tmp_path, 0, 1, 0.1, told.append, None) as watch:
        watch.reached(7, "computing")
        time.sleep(1.5)
        watch.reached(8, "computing")
        time.sleep(1.0)
    assert len(told) == 2 and "step 7, computing; nothing is restarted" in told[0]
