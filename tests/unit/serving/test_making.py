"""What a replica does beside stepping: a call that does not come back is seen."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from momu_dist.serving.items import Joint
from momu_dist.serving.making import Maker


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
