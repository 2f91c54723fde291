"""Tracking never makes training wait or fail, and loses nothing that a server could still take."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from momu_dist.tracking.background import BackgroundTracker, flatten
from momu_dist.tracking.events import Event, Rejected, Spool, batches


class FakeBackend:
    """Keeps what it is sent; can be away, can hang, can refuse values."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def deliver(self, events: Sequence[Event]) -> None:
        self.reached.set()
        self.gate.wait(20)
        if self.away:
            raise ConnectionError("nobody answers at http://me:secret@h/api")
        if any("bad" in event.body.get("values", {}) for event in events):
            raise Rejected("bad name at http://me:secret@h/api")
        self.events += events

    @property
    def steps(self) -> list[int]:
        return [event.body["step"] for event in self.events if event.kind == "metrics"]


def tracker(backend: FakeBackend, folder: Path, **options: float) -> BackgroundTracker:
    return BackgroundTracker(lambda: backend, folder / "spool.jsonl", **options)  # type: ignore[arg-type]


def test_events_arrive_in_the_order_of_the_calls(tmp_path: Path) -> None:
    backend = FakeBackend()
    t = tracker(backend, tmp_path)
    run_id = t.start("run", {"train": {"steps": 3}}, tags={"stage": "dit_a2m"})
    for step in range(5):
        t.metrics(step, {"loss": 1.0 / (step + 1)})
    t.artifact(tmp_path / "sheet.png", "samples")
    t.metrics(5, {"loss": 0.1})
    t.finish()
    assert [event.kind for event in backend.events] == ["start"] + ["metrics"] * 5 + [
        "artifact",
        "metrics",
        "finish",
    ]
    assert backend.steps == [0, 1, 2, 3, 4, 5]
    assert {event.run_id for event in backend.events} == {run_id}
    assert backend.events[0].body == {
        "name": "run",
        "params": {"train.steps": "3"},
        "tags": {"stage": "dit_a2m"},
    }
    assert backend.events[-1].body == {"status": "FINISHED"}
    assert not (tmp_path / "spool.jsonl").exists()


def test_a_given_id_is_kept(tmp_path: Path) -> None:
    backend = FakeBackend()
    t = tracker(backend, tmp_path)
    assert t.start("run", {}, run_id="abc") == "abc"
    t.finish()
    assert {event.run_id for event in backend.events} == {"abc"}


def test_calls_return_while_the_server_hangs_and_the_deadline_keeps_everything(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.gate.clear()
    t = tracker(backend, tmp_path, finish_s=0.2)
    t.start("run", {})
    assert backend.reached.wait(10)
    for step in range(100):
        t.metrics(step, {"loss": 1.0})
    t.finish("FAILED")
    waiting, lines = Spool(tmp_path / "spool.jsonl").read(1000)
    assert [event.kind for event in waiting] == ["start"] + ["metrics"] * 100 + ["finish"]
    assert lines == 102
    backend.gate.set()


def test_an_outage_is_spooled_and_replayed_in_order_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    backend.away = True
    with caplog.at_level(logging.WARNING):
        first = tracker(backend, tmp_path, retry_s=0.01)
        run_id = first.start("run", {})
        for step in range(3):
            first.metrics(step, {"loss": 1.0})
        first.finish("FAILED")
    assert backend.events == []
    assert sum("not reachable" in record.message for record in caplog.records) == 1
    assert "http://***@h" in caplog.text and "secret" not in caplog.text

    backend.away = False
    second = tracker(backend, tmp_path)
    second.start("run", {}, run_id=run_id)
    second.metrics(3, {"loss": 1.0})
    second.finish()
    assert [event.kind for event in backend.events] == [
        *["start", "metrics", "metrics", "metrics", "finish"],
        *["start", "metrics", "finish"],
    ]
    assert backend.steps == [0, 1, 2, 3]
    assert not (tmp_path / "spool.jsonl").exists()


def test_a_server_that_comes_back_gets_everything_in_the_same_run(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.away = True
    t = tracker(backend, tmp_path, retry_s=0.01)
    t.start("run", {})
    t.metrics(0, {"loss": 1.0})
    assert backend.reached.wait(10)
    backend.away = False
    t.metrics(1, {"loss": 1.0})
    t.finish()
    assert [event.kind for event in backend.events] == ["start", "metrics", "metrics", "finish"]
    assert backend.steps == [0, 1]


def test_a_backend_that_cannot_be_made_is_an_outage(tmp_path: Path) -> None:
    def no_backend() -> FakeBackend:
        raise OSError("no such server")

    t = BackgroundTracker(no_backend, tmp_path / "spool.jsonl")
    t.start("run", {})
    t.finish()
    assert [event.kind for event in Spool(tmp_path / "spool.jsonl").read(10)[0]] == ["start", "finish"]


def test_a_refused_value_does_not_take_its_neighbours_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    backend.gate.clear()  # so that all metrics are sent as one batch
    t = tracker(backend, tmp_path)
    t.start("run", {})
    t.metrics(0, {"loss": 1.0})
    t.metrics(1, {"bad": 1.0})
    t.metrics(2, {"loss": 1.0})
    backend.gate.set()
    t.finish()
    assert backend.steps == [0, 2]
    assert backend.events[-1].kind == "finish"
    assert "refused a metrics event: bad name at http://***@h/api" in caplog.text


def test_a_full_queue_loses_the_newest_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend()
    backend.gate.clear()
    t = tracker(backend, tmp_path, queue_size=4, finish_s=0.2)
    t.start("run", {})
    assert backend.reached.wait(10)
    for step in range(10):
        t.metrics(step, {"loss": 1.0})
    with caplog.at_level(logging.WARNING):
        t.finish()
    kept = [event.body.get("step") for event in Spool(tmp_path / "spool.jsonl").read(100)[0]]
    assert kept == [None, 0, 1, 2, 3]
    assert any("7 events" in record.message for record in caplog.records)  # six metrics and the finish
    backend.gate.set()


def test_a_spool_that_cannot_be_written_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    backend = FakeBackend()
    backend.away = True
    t = tracker(backend, tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        t.start("run", {})
        t.metrics(0, {"loss": 1.0})
        t.finish()
    assert any("tracking stopped" in record.message for record in caplog.records)


def test_what_a_run_left_is_sent_later_without_telling_anything_new(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.away = True
    first = tracker(backend, tmp_path)
    first.start("run", {})
    first.model("momu-dit_a2m", tmp_path / "best", {"momu.step": "3"})
    first.finish()
    assert backend.events == []
    tracker(backend, tmp_path).send_waiting()
    assert [event.kind for event in Spool(tmp_path / "spool.jsonl").read(10)[0]] == [
        "start",
        "model",
        "finish",
    ]

    backend.away = False
    tracker(backend, tmp_path).send_waiting()
    assert [event.kind for event in backend.events] == ["start", "model", "finish"]
    assert backend.events[1].body == {
        "name": "momu-dit_a2m",
        "export": str(tmp_path / "best"),
        "tags": {"momu.step": "3"},
    }
    assert not (tmp_path / "spool.jsonl").exists()


def test_finish_without_start_does_nothing(tmp_path: Path) -> None:
    tracker(FakeBackend(), tmp_path).finish()
    assert list(tmp_path.iterdir()) == []


def test_spool_leaves_out_a_torn_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append([Event("finish", "a", 1, {"status": "FAILED"})])
    with spool.path.open("a") as file:
        file.write('{"kind": "metr')
    events, lines = spool.read(10)
    assert [event.run_id for event in events] == ["a"]
    assert lines == 2
    spool.append([Event("start", "b", 2, {})])
    events, lines = spool.read(10)
    assert [event.run_id for event in events] == ["a", "b"], "the next event has a line of its own"
    assert lines == 3
    spool.drop(lines)
    assert not spool


def test_batches_join_only_neighbouring_metrics_of_one_run() -> None:
    def event(kind: str, run: str) -> Event:
        return Event(kind, run, 0, {})  # type: ignore[arg-type]

    events = [event("start", "a"), *[event("metrics", "a")] * 3, event("metrics", "b"), event("finish", "b")]
    assert [len(batch) for batch in batches(events, most=2)] == [1, 2, 1, 1, 1]
    assert list(batches([])) == []


def test_flatten_names_every_field_of_a_nested_config() -> None:
    config = {
        "stage": "dit_a2m",
        "model": {"width": 96, "ff": {"mult": 2}},
        "data": {},
        "train": {"steps": None},
    }
    assert flatten(config) == {
        "stage": "dit_a2m",
        "model.width": "96",
        "model.ff.mult": "2",
        "data": "{}",
        "train.steps": "None",
    }


def test_a_run_folder_that_is_gone_is_not_made_anew_for_a_spool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    backend.away = True
    t = tracker(backend, tmp_path / "gone")
    t.start("run", {})
    t.finish("FAILED")
    assert not (tmp_path / "gone").exists() and "tracking" in caplog.text
