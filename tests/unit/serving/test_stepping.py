"""The stepping thread: requests come and go between steps, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from momu_dist.core.diffusion.guidance import Ask, Walk
from momu_dist.core.diffusion.samplers import Point
from momu_dist.serving.stepping import Stepper

LIMIT_S = 20.0


class Gate:
    """A network whose calls wait to be let through, and that keeps how many rows each held."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._free = threading.Semaphore(0)

    def open(self, calls: int = 10_000) -> None:
        self._free.release(calls)

    def __call__(self, z: Tensor, *rest: Any) -> Tensor:
        assert self._free.acquire(timeout=LIMIT_S)
        self.rows.append(len(z))
        return z


def walk(n_steps: int) -> Walk:
    z = torch.zeros(1, 1, 4)
    for done in range(n_steps):
        yield [Ask("net", Point(z, 1, done, n_steps), z, drop=False)]
    return (z,)


def generator_of(network: Callable[..., Tensor]) -> Any:
    class Played(SimpleNamespace):
        __hash__ = object.__hash__

    return Played(networks={"net": network})


@pytest.fixture()
def gate() -> Gate:
    return Gate()


@pytest.fixture()
def stepper(gate: Gate) -> Iterator[Stepper]:
    stepper = Stepper(capacity=2, most_jobs=1)
    yield stepper
    gate.open()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


def test_walks_come_to_their_ends_and_tell_of_each_step(stepper: Stepper, gate: Gate) -> None:
    told: list[tuple[int, int]] = []
    future = stepper.start(
        generator_of(gate), walk(3), "request", lambda done, total: told.append((done, total))
    )
    gate.open()
    assert future.result(LIMIT_S)[0].shape == (1, 1, 4)
    assert told == [(1, 3), (2, 3)] and gate.rows == [1, 1, 1]


def test_a_walk_joins_others_between_their_steps(stepper: Stepper, gate: Gate) -> None:
    generator = generator_of(gate)
    first = stepper.start(generator, walk(3), "request")
    gate.open(1)
    until(lambda: len(gate.rows) == 1)
    second = stepper.start(generator, walk(3), "request")
    gate.open()
    first.result(LIMIT_S), second.result(LIMIT_S)
    # The second call may have begun before the second walk was there.
    assert gate.rows in ([1, 2, 2, 1], [1, 1, 2, 1, 1])


def test_what_has_no_room_waits_its_turn(stepper: Stepper, gate: Gate) -> None:
    generator = generator_of(gate)
    futures = [stepper.start(generator, walk(2), "request") for _ in range(5)]
    until(lambda: stepper.load() == (2, 3))
    gate.open()
    for future in futures:
        future.result(LIMIT_S)
    assert max(gate.rows) == 2 and sum(gate.rows) == 10
    until(lambda: stepper.load() == (0, 0))


def test_requests_go_before_jobs_which_always_get_a_place(gate: Gate) -> None:
    stepper, generator = Stepper(capacity=4, most_jobs=2), generator_of(gate)
    jobs = [stepper.start(generator, walk(4), "job") for _ in range(5)]
    until(lambda: stepper.load() == (2, 3))
    requests = [stepper.start(generator, walk(2), "request") for _ in range(15)]
    ended: list[str] = []
    for kind, futures in (("job", jobs), ("request", requests)):
        for future in futures:
            future.add_done_callback(lambda _, kind=kind: ended.append(kind))
    gate.open()
    for future in [*jobs, *requests]:
        assert future.result(LIMIT_S)
    until(lambda: len(ended) == 20)  # a future has its result a moment before it tells of it
    assert max(gate.rows) == 4 and sum(gate.rows) == 5 * 4 + 15 * 2
    # Two jobs began while nobody else was there; then they have one place and the requests three.
    assert ended[:9].count("request") == 7
    third = [place for place, kind in enumerate(ended) if kind == "job"][2]
    assert "request" in ended[third:]


def test_a_cancelled_walk_frees_its_place_at_the_next_step(stepper: Stepper, gate: Gate) -> None:
    generator = generator_of(gate)
    kept, dropped = (
        stepper.start(generator, walk(1000), "request"),
        stepper.start(generator, walk(1000), "request"),
    )
    waiting, never = (
        stepper.start(generator, walk(2), "request"),
        stepper.start(generator, walk(2), "request"),
    )
    until(lambda: stepper.load() == (2, 2))
    assert dropped.cancel() and never.cancel()
    gate.open()
    waiting.result(LIMIT_S)
    assert kept.cancel()
    with pytest.raises(CancelledError):
        kept.result(0)
    until(lambda: stepper.load() == (0, 0))
    # Those two never took a step more than they had begun.
    assert gate.rows[:1] in ([1], [2]) and gate.rows[1:3] == [2, 2]


def test_an_error_reaches_all_who_shared_the_call_and_ends_nothing_else(stepper: Stepper, gate: Gate) -> None:
    def broken(*rest: Any) -> Tensor:
        gate(*rest)
        raise RuntimeError("out of memory")

    generator = generator_of(broken)
    futures = [stepper.start(generator, walk(3), "request") for _ in range(2)]
    until(lambda: stepper.load() == (2, 0))
    gate.open()
    for future in futures:
        with pytest.raises(RuntimeError, match="out of memory"):
            future.result(LIMIT_S)
    gate.open()
    assert stepper.start(generator_of(gate), walk(2), "request").result(LIMIT_S)


def test_a_walk_that_fails_leaves_the_others_what_they_have_made(stepper: Stepper, gate: Gate) -> None:
    def failing(after: int) -> Walk:
        yield from (ask for ask, _ in zip(walk(after), range(after), strict=True))
        raise ValueError("not finite")

    # The second walk fails in the step in which the first one ends, and the third when its turn has come.
    ends, fails, last = (
        stepper.start(generator, one, "request")
        for generator in [generator_of(gate)]
        for one in (walk(2), failing(2), walk(3))
    )
    gate.open()
    assert ends.result(LIMIT_S) and last.result(LIMIT_S)
    with pytest.raises(ValueError, match="not finite"):
        fails.result(LIMIT_S)


def test_a_walk_that_cannot_begin_is_told_so(stepper: Stepper, gate: Gate) -> None:
    def refusing() -> Walk:
        raise ValueError("no such step")
        yield

    with pytest.raises(ValueError, match="no such step"):
        stepper.start(generator_of(gate), refusing(), "request").result(LIMIT_S)
    gate.open()
    assert stepper.start(generator_of(gate), walk(2), "request").result(LIMIT_S)


def test_old_models_finish_what_they_began(stepper: Stepper, gate: Gate) -> None:
    newer = Gate()
    old = stepper.start(generator_of(gate), walk(3), "request")
    new = stepper.start(generator_of(newer), walk(3), "request")
    gate.open(), newer.open()
    old.result(LIMIT_S), new.result(LIMIT_S)
    assert gate.rows == newer.rows == [1, 1, 1]


def test_a_stall_is_seen_and_idleness_is_none() -> None:
    now, gate = [0.0], Gate()
    stepper = Stepper(capacity=2, most_jobs=1, clock=lambda: now[0])
    now[0] = 100.0
    assert stepper.stalled_s() == 0.0
    future = stepper.start(generator_of(gate), walk(1), "request")
    assert stepper.stalled_s() == 0.0
    now[0] = 130.0
    assert stepper.stalled_s() == 30.0
    gate.open()
    future.result(LIMIT_S)
    until(lambda: stepper.stalled_s() == 0.0)
