"""One thread that steps all walks of a process: requests join and leave between sampler steps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from momu_dist.core.diffusion.batching import Walkers
from momu_dist.core.diffusion.guidance import Walk
from momu_dist.inference.generator import Generator

OnProgress = Callable[[int, int], None]
"""(sampling steps done, steps in all) of one walk; called in the stepping thread, so it must return at once."""


Kind = Literal["request", "job"]
"""For whom a walk is: somebody who waits, or a job."""


@dataclass(eq=False)
class _Entry:
    generator: Generator
    walk: Walk
    kind: Kind
    on_progress: OnProgress | None
    ended: Future[tuple[Tensor, ...]] = field(default_factory=Future)
    told: int = 0


class Stepper:
    """Steps walks, at most `capacity` at a time; others wait.

    Requests go first, and of either kind who came first. Jobs take at most `most_jobs` places; one of them is theirs when it
    is next free, however many requests wait.

    Walks of one generator share network calls. Several generators may be in use at once: while a new one takes over, the
    walks that the old one began go on with it. A walk leaves when it ends, or at the next step after its future was
    cancelled.
    """

    def __init__(self, capacity: int, most_jobs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._most_jobs = capacity, most_jobs
        self._clock = clock
        self._waiting: dict[Kind, deque[_Entry]] = {"request": deque(), "job": deque()}
        self._walkers: dict[Generator, Walkers[_Entry]] = {}
        self._changed = threading.Condition()
        self._moved = clock()
        # It ends with the process, which Serve ends when nothing is under way any more, or its time for that is over.
        threading.Thread(target=self._run, name="stepper", daemon=True).start()

    def start(
        self, generator: Generator, walk: Walk, kind: Kind, on_progress: OnProgress | None = None
    ) -> Future[tuple[Tensor, ...]]:
        """Let `walk` take part as soon as there is room. The future gives its latents; cancelling it ends the walk."""
        entry = _Entry(generator, walk, kind, on_progress)
        with self._changed:
            if not self._busy():
                self._moved = self._clock()
            self._waiting[kind].append(entry)
            self._changed.notify()
        return entry.ended

    def stalled_s(self) -> float:
        """Seconds since the last step, 0 while there is nothing to step."""
        with self._changed:
            return self._clock() - self._moved if self._busy() else 0.0

    def load(self) -> tuple[int, int]:
        """(walks under way, walks that wait)."""
        with self._changed:
            return sum(map(len, self._walkers.values())), sum(map(len, self._waiting.values()))

    def _run(self) -> None:
        while True:
            self._admit()
            for generator, walkers in list(self._walkers.items()):
                self._step(walkers)
                if not len(walkers):
                    with self._changed:
                        del self._walkers[generator]

    def _busy(self) -> bool:
        return bool(self._walkers or any(self._waiting.values()))

    def _present(self) -> list[_Entry]:
        return [entry for walkers in self._walkers.values() for entry in walkers.present()]

    def _next(self) -> _Entry | None:
        """Who is to come in now, out of the line; None where nobody may."""
        present = self._present()
        if len(present) >= self._capacity:
            return None
        requests, jobs = self._waiting["request"], self._waiting["job"]
        n_jobs = sum(entry.kind == "job" for entry in present)
        if jobs and n_jobs < (1 if requests else self._most_jobs):
            return jobs.popleft()
        return requests.popleft() if requests else None

    def _admit(self) -> None:
        """Wait for work, drop what was cancelled, let in what there is room for."""
        with self._changed:
            self._changed.wait_for(self._busy)
            for walkers in self._walkers.values():
                for entry in walkers.present():
                    if entry.ended.cancelled():
                        walkers.leave(entry)
            while coming := self._next():
                if coming.ended.cancelled():
                    continue
                walkers = self._walkers.setdefault(coming.generator, Walkers(coming.generator.networks))
                with suppress(StopIteration):  # it ended where it began
                    walkers.join(coming, _settling(coming))

    def _step(self, walkers: Walkers[_Entry]) -> None:
        try:
            walkers.step()
        except Exception as error:  # of a network call: all who may have shared it must hear of it
            for entry in walkers.present():
                walkers.leave(entry)
                _settle(entry, error)
            return
        finally:
            self._moved = self._clock()
        for entry in walkers.present():
            done, n_steps = walkers.progress(entry)
            if entry.on_progress and done > entry.told:
                entry.on_progress(done, n_steps)
                entry.told = done


def _settling(entry: _Entry) -> Walk:
    """The walk of `entry`, whose end, good or bad, is its future's and no other's."""
    try:
        latents = yield from entry.walk
    except Exception as error:
        _settle(entry, error)
        return ()
    _settle(entry, latents)
    return latents


def _settle(entry: _Entry, result: tuple[Tensor, ...] | Exception) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        if isinstance(result, Exception):
            entry.ended.set_exception(result)
        else:
            entry.ended.set_result(result)
