"""How far a job's work has come, read from the files it writes."""

from __future__ import annotations

from contextlib import suppress

from momu_dist.launch.status import Status
from momu_dist.launch.work import Work
from momu_dist.train.folder import parse_metrics
from momu_dist.train.run import NewLines


class Progress:
    """Follows one attempt: its phases end with what the workers write into events.log."""

    def __init__(self, work: Work, status: Status) -> None:
        self.work = work
        self.folder = work.folder
        self.status = status
        self._phase = "workers"
        self._reached_before = work.reached()
        if self.folder is None:
            return
        self._events, self._metrics = NewLines(self.folder.events), NewLines(self.folder.metrics)
        status.set(total_steps=work.total_steps, step=self._reached_before)

    def look(self) -> None:
        """Read what is new; a disk that refuses for a moment ends no training."""
        if self.folder is None:
            return
        with suppress(OSError):
            self._look()

    def end(self) -> bool:
        """Look for the last time; return whether this attempt has come further, for good; not where the disk does not say."""
        self.look()
        with suppress(OSError):
            reached = self.work.reached()
            if self.folder is not None:  # what is saved at a stop may be beyond the last entry of the metrics
                self.status.set(step=max(reached, self.status.facts["step"]))
            return reached > self._reached_before
        return False

    def _look(self) -> None:
        events = self._events.read()
        if self._phase == "workers" and (" begins with " in events or " goes on at step " in events):
            self._enter("first step")
        if self._phase == "first step" and "the first of this start" in events:
            self._enter("training")
        steps = [entry["step"] for entry in parse_metrics(self._metrics.read())]
        if steps:
            self.status.set(step=max(steps))

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self.status.phase(phase)
