"""A tracker that sends from its own thread, keeps what it cannot send, and never makes training wait or fail."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from momu_dist.errors import told
from momu_dist.tracking.contract import Status
from momu_dist.tracking.events import Backend, Event, Kind, Rejected, Spool, batches

log = logging.getLogger(__name__)

QUEUE_SIZE = 10_000  # events; at one every few steps this is hours of a hanging server
READ_SIZE = 1_000  # events taken from queue or spool at a time


class BackgroundTracker:
    """Calls put events into a bounded queue; one daemon thread delivers them in order.

    When a delivery fails, that event and all later ones go to `spool`, and are sent from there, oldest first, once the
    server answers again: after `retry_s`, at `finish`, or when a later process opens the same spool. One warning an
    outage. When the queue is full (a server that hangs for hours) the newest events are lost, counted and reported.
    """

    def __init__(
        self,
        make_backend: Callable[[], Backend],
        spool: Path,
        *,
        retry_s: float = 30.0,
        finish_s: float = 30.0,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        self._make_backend = make_backend  # called on the thread: connecting may create a database schema
        self._backend: Backend | None = None
        self._spool = Spool(spool)
        self._retry_s = retry_s
        self._finish_s = finish_s
        self._queue: queue.Queue[Event] = queue.Queue(maxsize=queue_size)
        self._lock = threading.Lock()  # guards _in_flight, _abandoned and the spool file
        self._in_flight: list[Event] = []
        self._abandoned = False
        self._closing = threading.Event()
        self._next_try = 0.0
        self._warned = False
        self._lost = 0
        self._run_id = ""
        self._thread: threading.Thread | None = None

    def start(
        self,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> str:
        assert self._thread is None, "a tracker follows one run"
        self._run_id = run_id or uuid.uuid4().hex
        self._thread = self._start_thread()
        self._put("start", {"name": run_name, "params": flatten(params), "tags": dict(tags or {})})
        return self._run_id

    def metrics(self, step: int, values: Mapping[str, float], time_s: float | None = None) -> None:
        floats = {key: float(value) for key, value in values.items()}
        self._put("metrics", {"step": int(step), "values": floats}, time_s)

    def artifact(self, local_path: str | Path, folder: str = "") -> None:
        self._put("artifact", {"path": str(Path(local_path).absolute()), "folder": folder})

    def model(self, name: str, export: str | Path, tags: Mapping[str, str]) -> None:
        self._put("model", {"name": name, "export": str(Path(export).absolute()), "tags": dict(tags)})

    def finish(self, status: Status = "FINISHED") -> None:
        if self._thread is None:
            return
        self._put("finish", {"status": status})
        self._close(self._thread)
        if self._lost:
            log.warning("tracking: %d events found the queue full and were lost", self._lost)
        self._thread = None

    def send_waiting(self) -> None:
        """Send what an earlier process left in the spool, within the time that `finish` has; it reports nothing new."""
        assert self._thread is None, "a tracker that follows a run sends by itself"
        if self._spool:
            thread = self._start_thread()
            self._close(thread)

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="momu-tracking", daemon=True)
        thread.start()
        return thread

    def _close(self, thread: threading.Thread) -> None:
        self._closing.set()
        thread.join(self._finish_s)
        if thread.is_alive():
            self._abandon()

    def _put(self, kind: Kind, body: dict[str, Any], time_s: float | None = None) -> None:
        when = time.time() if time_s is None else time_s
        event = Event(kind, self._run_id, round(when * 1000), body)
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._lost += 1

    def _abandon(self) -> None:
        """Keep what the thread has not delivered: the deadline has passed while the server hangs."""
        with self._lock:
            self._abandoned = True
            try:
                self._spool.append(self._in_flight + self._drain())
            except OSError as error:
                self._warn(error)
        self._warn("no answer before the deadline")

    def _work(self) -> None:
        try:
            while not self._abandoned:
                closing = self._closing.is_set()  # read first: what was put before it is then in the queue
                self._step(self._take(), closing)
                if closing and self._queue.empty():
                    return
        except Exception as error:  # such as a full disk under the spool: training goes on without tracking
            log.warning("tracking stopped: %s: %s", type(error).__name__, error)

    def _take(self) -> list[Event]:
        """Return what is queued, after waiting a moment for the first event; hold it as in flight."""
        try:
            first = [self._queue.get(timeout=min(self._retry_s, 0.2))]
        except queue.Empty:
            return []
        with self._lock:
            self._in_flight = first + self._drain(READ_SIZE)
            return list(self._in_flight)

    def _drain(self, most: int | None = None) -> list[Event]:
        events: list[Event] = []
        while most is None or len(events) < most:
            try:
                events.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return events

    def _step(self, events: Sequence[Event], closing: bool) -> None:
        if not self._spool and time.monotonic() >= self._next_try:
            delivered, _ = self._send(events)
            self._keep(events[delivered:])
        else:
            self._keep(events)  # behind what waits there already: order is the order of the calls
        if self._spool and (closing or time.monotonic() >= self._next_try):
            self._replay()

    def _keep(self, events: Sequence[Event]) -> None:
        with self._lock:
            self._in_flight = []
            if not self._abandoned:
                self._spool.append(events)

    def _replay(self) -> None:
        while True:
            with self._lock:
                events, lines = ([], 0) if self._abandoned else self._spool.read(READ_SIZE)
            if not lines:
                return
            delivered, failed = self._send(events)
            with self._lock:
                if self._abandoned:
                    return
                self._spool.drop(delivered if failed else lines)
            if failed:
                return

    def _send(self, events: Sequence[Event]) -> tuple[int, bool]:
        """Return how many of `events`, from the front, need no further try, and whether the server failed then."""
        done = 0
        for batch in batches(events):
            try:
                self._deliver(batch)
            except Exception as error:  # whatever a client library raises, tracking must not stop training
                self._next_try = time.monotonic() + self._retry_s
                self._warn(error)
                return done, True
            done += len(batch)
        if events:
            self._warned = False
        return done, False

    def _deliver(self, batch: list[Event]) -> None:
        if self._backend is None:
            self._backend = self._make_backend()
        try:
            self._backend.deliver(batch)
        except Rejected as error:
            if len(batch) > 1:  # one bad value must not take its neighbours along
                for event in batch:
                    self._deliver([event])
            else:
                log.warning("tracking: the server refused a %s event: %s", batch[0].kind, told(error))

    def _warn(self, reason: object) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "tracking is not reachable (%s); keeping its data in %s", told(reason), self._spool.path
            )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the nested `config` as one level, `section.field` to text; an empty section becomes `{}`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = str(value)
    return flat
