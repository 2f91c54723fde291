"""What a replica does beside stepping: a call that does not come back is seen."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from momu_dist.serving.items import Joint
from momu_dist.serving.making import Made, Maker, Progress


def test_work_that_does_not_come_back_is_seen() -> None:
    now, begun, free = [0.0], threading.Event(), threading.Event()

    class Stuck:
        def prepare(self, _: Any) -> None:
            begun.set()
            assert free.wait(20)
            raise ValueError("at last")

    async def ask() -> None:
        maker = Maker(stepper=None, threads=1, clock=lambda: now[0])  # type: ignore[arg-type]
        assert maker.stalled_s() == 0.0
        made = maker.make(Stuck(), "joint", Joint(seconds=4), {}, "request")  # type: ignore[arg-type]
        asking = asyncio.ensure_future(anext(made))
        other = asyncio.ensure_future(
            anext(maker.make(Stuck(), "joint", Joint(seconds=4), {}, "job"))  # type: ignore[arg-type]
        )
        await asyncio.to_thread(partial(begun.wait, 20))
        now[0] = 30.0  # only of the first: the other one waits for a thread
        assert maker.stalled_s() == 30.0
        free.set()
        for one in (asking, other):
            with pytest.raises(ValueError, match="at last"):
                await one
        assert maker.stalled_s() == 0.0

    asyncio.run(ask())


def test_a_word_comes_with_each_sample_that_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens can tell slow work on many samples from none."""
    made, walked = Made(b"", "zip"), Future[Any]()
    walked.set_result(())
    monkeypatch.setattr("momu_dist.serving.making.encoded", lambda *_: made)
    generator = SimpleNamespace(
        prepare=lambda _: SimpleNamespace(n_steps=5), walk=lambda _: None, finish=lambda *_: None,
        models=SimpleNamespace(origins={}),
    )  # fmt: skip
    stepper = SimpleNamespace(start=lambda *_: walked)

    async def words() -> list[Any]:
        maker = Maker(stepper)  # type: ignore[arg-type]
        return [word async for word in maker.make(generator, "joint", Joint(seconds=4, n=3), {}, "request")]  # type: ignore[arg-type]

    assert asyncio.run(words()) == [Progress(15, 15)] * 3 + [made]
