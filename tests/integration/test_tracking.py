"""Tracking with a real MLflow on sqlite, and with a server that is away."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import Drill, Field, losses
from momu_dist.tracking import open_tracker
from momu_dist.tracking.events import Spool

pytestmark = pytest.mark.integration


def stored_runs(uri: str) -> tuple[Any, list[Any]]:
    """Return an MLflow client and the runs of the experiment `test`."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id]))


def test_metrics_artifacts_and_reopening_on_sqlite(tmp_path: Path) -> None:
    run_folder = tmp_path / "runs" / "a"
    run_folder.mkdir(parents=True)
    sheet = run_folder / "sheet.png"
    sheet.write_bytes(b"picture")
    config = {"train": {"lr": 2e-4, "note": "x" * 900}, "model": {f"field{i}": i for i in range(250)}}

    first = open_tracker("auto", "test", run_folder)
    run_id = first.start("a", config, tags={"stage": "dit_a2m"})
    for step in range(1200):
        first.metrics(step, {"loss": 1.0 / (step + 1)})
    first.artifact(sheet, "samples")
    first.finish("FAILED")

    second = open_tracker("auto", "test", run_folder)
    changed = {**config, "train": {"lr": 1e-4, "note": "x" * 900, "new": 1}}
    assert second.start("a", changed, run_id=run_id) == run_id
    second.metrics(1200, {"loss": float("nan"), "val/loss": 0.5})
    second.finish()

    client, runs = stored_runs(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = runs
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(metric.step for metric in history) == list(range(1201))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a"
    assert run.data.metrics["val/loss"] == 0.5
    assert run.data.params["model.field249"] == "249"
    assert run.data.params["train.note"] == "x" * 500
    assert (run.data.params["train.lr"], run.data.tags["resumed.train.lr"]) == ("0.0002", "0.0001")
    assert run.data.params["train.new"] == "1"
    assert run.data.tags["stage"] == "dit_a2m"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "samples")] == ["samples/sheet.png"]
    assert [path.read_bytes() for path in (tmp_path / "runs" / "mlartifacts").rglob("sheet.png")] == [
        b"picture"
    ]
    assert not (run_folder / "tracking-spool.jsonl").exists()


def test_two_runs_of_one_store_stay_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tracker = open_tracker("auto", "test", tmp_path / name)
        tracker.start(name, {})
        tracker.metrics(0, {"loss": 1.0})
        tracker.finish()
    _, runs = stored_runs(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]


def test_an_outage_never_reaches_training_and_is_replayed_once_and_in_order(tmp_path: Path) -> None:
    with socket.socket() as probe:  # a port of this machine on which nobody listens
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = open_tracker(f"http://127.0.0.1:{port}", "test", tmp_path)
    run_id = away.start("a", {"seed": 1})
    for step in range(50):
        away.metrics(step, {"loss": float(step)})
    away.finish("FAILED")
    spool = tmp_path / "tracking-spool.jsonl"
    waiting, _ = Spool(spool).read(1000)
    assert [event.kind for event in waiting] == ["start"] + ["metrics"] * 50 + ["finish"]
    saved = spool.read_text()

    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    (tmp_path / "store").mkdir()
    for _ in range(2):  # the second time as after a crash between sending and forgetting
        spool.write_text(saved)
        back = open_tracker(uri, "test", tmp_path)
        assert back.start("a", {"seed": 1}, run_id=run_id) == run_id
        back.finish()
        assert not spool.exists()

    client, runs = stored_runs(uri)
    (run,) = runs
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, float(step)) for step in range(50)]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "1"}


class Server:
    """A real MLflow server on loopback, which can be taken away and brought back with the same store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = [f"--backend-store-uri=sqlite:///{self.folder / 'mlflow.db'}"]
        store += [f"--artifacts-destination={self.folder / 'artifacts'}"]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--workers=1",
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *store], stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                assert time.monotonic() < until, (self.folder / "server.log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


@pytest.mark.chaos
@pytest.mark.parametrize("outage", ["at the start", "in the middle", "the whole run"])
def test_a_server_that_is_away_costs_the_run_nothing_and_misses_nothing(
    outage: str, server: Server, drill: Callable[..., Drill]
) -> None:
    name = f"outage-{outage.replace(' ', '-')}"
    more = (
        f"tracking.uri={server.uri}",
        "tracking.experiment=test",
        "train.max_steps=60",
        "train.previews=false",
    )
    if outage == "in the middle":
        server.start()
    run = drill("dit_a2m", "local", name, *more)
    run.wait_for_step(15)
    if outage == "in the middle":
        server.stop()
        run.wait_for_step(30)
    if outage != "the whole run":
        server.start()
    text = run.finish()
    assert "Traceback" not in text
    if outage == "the whole run":
        assert (run.run / "tracking-spool.jsonl").is_file()
        server.start()
    # A finished run that is started again only sends what is still waiting.
    assert "is finished" in drill("dit_a2m", "local", name, *more).finish()
    assert not (run.run / "tracking-spool.jsonl").exists()
    client, runs = stored_runs(server.uri)
    (tracked,) = runs
    history = client.get_metric_history(tracked.info.run_id, "total")
    assert [(metric.step, metric.value) for metric in history] == losses(run.run)
    assert tracked.info.status == "FINISHED"


def test_a_killed_run_has_each_value_once_in_its_one_run(field: Field, drill: Callable[..., Drill]) -> None:
    uri = f"sqlite:///{field.root / 'killed.db'}"
    more = (
        f"tracking.uri={uri}",
        "tracking.experiment=test",
        "train.max_steps=40",
        "train.checkpoint_every=7",
    )
    more += ("train.previews=false",)
    run = drill("dit_a2m", "local", "killed-and-tracked", *more)
    run.kill("driver", 12, random.Random(0))
    run.finish()
    client, runs = stored_runs(uri)
    (tracked,) = runs
    assert tracked.info.status == "FINISHED"
    for name, found in (("total", losses(run.run)), ("val/true", None)):
        history = [
            (metric.step, metric.value) for metric in client.get_metric_history(tracked.info.run_id, name)
        ]
        assert history and len(history) == len(set(history))
        assert found is None or sorted(history) == found
