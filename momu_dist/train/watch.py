"""Watches a worker's progress: when nothing moves for too long, every worker's stacks are written and the slow one named.

A hanging collective looks the same on every worker but the one that does not come. All workers pass the same places in the
same order, so the one that has passed fewest is the one the others wait for; a worker that is stopped, or gone, does not
answer at all.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
"""How long a worker waits for what the others say of themselves."""


class Watch:
    """A thread beside the training loop of rank `rank` of `world_size`, which calls `reached`.

    After `limit_s` without a call it writes all stacks to `folder`, tells who is slow, and calls `restart`, if there is one.
    """

    def __init__(
        self, folder: Path, rank: int, world_size: int, limit_s: float, tell: Callable[[str], None],
        restart: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.limit_s = limit_s
        self.tell = tell
        self.restart = restart
        self._passed = 0
        self._place = "starting"
        self._since = time.monotonic()
        self._closed = threading.Event()
        self._answer(rank).unlink(missing_ok=True)  # of an attempt before
        self._thread = threading.Thread(target=self._work, name="momu-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._since = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def reached(self, step: int, place: str) -> None:
        """The loop has come to `place` in step `step`."""
        self._passed += 1
        self._place = f"step {step}, {place}"
        self._since = time.monotonic()

    def _work(self) -> None:
        told = -1
        while not self._closed.wait(min(1.0, self.limit_s / 4)):
            still = time.monotonic() - self._since
            if still < self.limit_s or told == self._passed:
                continue
            told = self._passed
            # On a thread of its own, for the disk it writes to may be what hangs.
            report = threading.Thread(target=self._report, args=(still,), name="momu-stall", daemon=True)
            report.start()
            report.join(4 * ANSWER_S)
            if self.restart is not None and self._passed == told and not self._closed.is_set():
                self.restart()

    def _report(self, still: float) -> None:
        try:
            self._dump(still)
            if self._closed.wait(ANSWER_S):
                return
            answers = self._answers()
            if min(answers) == self.rank:
                self.tell(self._verdict(answers))
        except OSError as error:
            logger.warning("no progress for %.0f s since %s, and no report: %s", still, self._place, error)

    def _dump(self, still: float) -> None:
        self.folder.mkdir(exist_ok=True)
        when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        with (self.folder / f"{when}-rank-{self.rank}.txt").open("w") as file:
            file.write(f"rank {self.rank}: no progress for {still:.0f} s since {self._place}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        answer = self._answer(self.rank)
        temporary = answer.with_suffix(".writing")
        temporary.write_text(json.dumps({"passed": self._passed, "place": self._place}))
        temporary.rename(answer)

    def _answers(self) -> dict[int, dict[str, Any]]:
        found = {}
        for rank in range(self.world_size):
            if self._answer(rank).is_file():
                found[rank] = json.loads(self._answer(rank).read_text())
        return found

    def _verdict(self, answers: dict[int, dict[str, Any]]) -> str:
        silent = sorted(set(range(self.world_size)) - set(answers))
        if silent:
            guilty = f"{_ranks(silent)} without a sign of life"
        else:
            least = min(answer["passed"] for answer in answers.values())
            slow = [rank for rank, answer in answers.items() if answer["passed"] == least]
            guilty = f"{_ranks(slow)} at {answers[slow[0]]['place']}"
        what = "the workers are restarted" if self.restart is not None else "nothing is restarted"
        return (
            f"no progress for {self.limit_s:g} s (train.stall_s): {guilty}; {what}. Stacks of all that answer are in "
            f"{self.folder}."
        )

    def _answer(self, rank: int) -> Path:
        return self.folder / f"answer-{rank}.json"


def _ranks(ranks: list[int]) -> str:
    return f"rank {', '.join(map(str, ranks))}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
