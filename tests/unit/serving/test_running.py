"""How `momu serve` comes to its settings. No Ray here."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import ControllerOptions

from momu_dist.cli import main
from momu_dist.errors import CheckpointError, ConfigError, MomuError, Stopped
from momu_dist.serving.front import environment
from momu_dist.serving.running import run_service
from momu_dist.serving.settings import DEFAULT_CONFIG, read_config
from momu_dist.serving.store import Store

CONFIG = (
    "http_options: {port: 9000}\napplications:\n- {name: momu, args: {checkpoint: [runs/demo], queue: 4}}\n"
)


def test_the_usual_config_is_read_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config(None, ["queue=16"]) == ({"queue": 16}, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(DEFAULT_CONFIG, [])
    DEFAULT_CONFIG.parent.mkdir()
    DEFAULT_CONFIG.write_text(CONFIG)
    assert read_config(None, ["max_batch=2"]) == (
        {"checkpoint": ["runs/demo"], "queue": 4, "max_batch": 2}, {"port": 9000},
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "a: b", "applications: []", "applications: [{}, {}]", "]"])
def test_what_is_no_config_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "app.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is no Serve config"):
        read_config(tmp_path / "app.yaml", [])


def test_models_are_named_by_either_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "momu_dist.serving.running.run_service", lambda args, http: asked.append((args, http))
    )
    monkeypatch.chdir(tmp_path)
    model = "models:/a2m@champion"
    assert main(["serve", "--model", model, "--checkpoint", "runs/m2a", "--port", "81", "queue=3"]) == 0
    assert asked == [({"checkpoint": [model, "runs/m2a"], "queue": 3}, {"port": 81})]


class Serve:
    """Ray Serve, played: what is asked of it, and a signal that comes while an application starts."""

    def __init__(self, proxies: dict[str, str], fault: str = "") -> None:
        self.proxies, self.fault = proxies, fault
        self.asked: list[str] = []
        self.variables: dict[str, str] = {}
        self.applications: dict[str, Any] = {}
        self.over = threading.Event()

    def status(self) -> Any:
        return SimpleNamespace(proxies=self.proxies, applications=self.applications)

    def start(self, *, controller_options: dict[str, Any], **_: Any) -> None:
        self.variables = ControllerOptions(**controller_options).runtime_env["env_vars"]  # type: ignore[index]
        if not self.fault:
            os.kill(os.getpid(), signal.SIGTERM)

    def run(self, *_: Any, name: str, **__: Any) -> None:
        self.asked.append(f"run {name}")
        deployments = {"sampler": SimpleNamespace(message=""), "api": SimpleNamespace(message=self.fault)}
        message = "Failed to update the deployments ['api']."
        self.applications = {name: SimpleNamespace(message=message, deployments=deployments)}
        if self.fault:
            raise RuntimeError(f"Deploying application {name} failed: {message}")
        self.over.wait(20.0)  # its models are loaded

    def delete(self, name: str) -> None:
        self.asked.append(f"delete {name}")

    def shutdown(self) -> None:
        self.asked.append("shutdown")


@pytest.fixture()
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Ray, no models, and a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("momu_dist.serving.running.build", lambda args: None)
    monkeypatch.setattr("momu_dist.serving.running.ray_session", lambda *_: nullcontext())
    monkeypatch.setattr("momu_dist.serving.beforehand.exports_under", lambda path: {})


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("proxies", "end"), [({}, "shutdown"), ({"node": "HEALTHY"}, "delete momu")], ids=["own", "shared"]
)
def test_a_signal_during_the_start_ends_what_is_ours_without_waiting_for_it(
    monkeypatch: pytest.MonkeyPatch, quiet: None, proxies: dict[str, str], end: str
) -> None:
    played, before = Serve(proxies), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("momu_dist.serving.running.serve", played)
    with pytest.raises(Stopped):
        run_service({"checkpoint": ["run"], "max_body_mb": 3}, {"port": free_port()})
    assert not played.over.is_set()
    played.over.set()
    assert played.variables == environment(3.0)
    assert played.asked == ["run momu", end] and signal.getsignal(signal.SIGTERM) is before


TRACEBACK = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
[36mray::ServeReplica:momu:api.initialize_and_get_metadata()[39m (pid=1, ip=127.0.0.1)
  File "app.py", line 1, in __init__
momu_dist.errors.ConfigError: a sentence of ours: mend it.

The above exception was the direct cause of the following exception:
RuntimeError: the replica ended
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [(TRACEBACK, "a sentence of ours: mend it."), ("no node has room for it", "no node has room for it")],
)
def test_a_start_that_fails_inside_says_why(
    monkeypatch: pytest.MonkeyPatch, quiet: None, fault: str, said: str
) -> None:
    played = Serve({}, fault)
    monkeypatch.setattr("momu_dist.serving.running.serve", played)
    with pytest.raises(CheckpointError) as caught:
        run_service({"checkpoint": ["run"]}, {"port": free_port()})
    assert str(caught.value) == f"the service did not start: {said}"
    assert played.asked == ["run momu", "shutdown"]


@pytest.fixture()
def faulty(tmp_path: Path) -> Iterator[Path]:
    """Files that no service can start with, a state that another one has, and a port that another program has."""
    (tmp_path / "short").write_text("short")
    (tmp_path / "bytes").write_bytes(bytes(range(128, 160)))
    (tmp_path / "file").write_text("x")
    taken = Store(tmp_path / "taken")
    yield tmp_path
    taken.close()


@pytest.mark.parametrize(
    ("settings", "http", "said"),
    [
        ({"token_file": "short"}, {}, "short holds no token, expected at least 16"),
        ({"token_file": "bytes"}, {}, "bytes holds no token, expected at least 16"),
        ({"token_file": "."}, {}, "cannot be read (Is a directory)"),
        ({"token_file": "gone"}, {}, "cannot be read (No such file"),
        ({"state": "/proc/nope"}, {}, "/proc/nope cannot be used (No such file"),
        ({"state": "file"}, {}, "file cannot be used (File exists)"),
        ({"state": "taken"}, {}, "taken is in use by another service"),
        ({"vocoder": "gone"}, {}, "no vocoder at"),
        ({"gpus": 1, "replicas": 2}, {}, "2 replicas of 1 GPUs are asked for, this machine has 0"),
        ({}, {"port": 99999}, "the port is 99999, expected 1 to 65535"),
        ({}, {"port": 0}, "the port is 0, expected 1 to 65535"),
        ({}, {"port": "http"}, "the port is 'http', expected 1 to 65535"),
        ({}, {"host": "0.0.0.0"}, "0.0.0.0 can be reached from elsewhere"),
        ({}, {"host": "192.0.2.1"}, "give token_file=<file>"),
        ({"token_file": "token"}, {"host": "192.0.2.1"}, "cannot listen at 192.0.2.1"),
    ],
)
def test_what_cannot_start_is_said_before_a_ray_is_started(
    monkeypatch: pytest.MonkeyPatch, quiet: None, faulty: Path, settings: dict[str, Any], http: Any, said: str
) -> None:
    (faulty / "token").write_text("f" * 32)
    monkeypatch.setattr("momu_dist.serving.running.ray_session", lambda *_: pytest.fail("a Ray was started"))
    monkeypatch.setattr("momu_dist.serving.store_schema.LOCK_S", 0.1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(MomuError) as caught:
        run_service({"checkpoint": ["run"], **settings}, {"port": free_port(), **http})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_said(quiet: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ConfigError, match="another program listens there"):
            run_service({"checkpoint": ["run"]}, {"port": other.getsockname()[1]})


@pytest.mark.parametrize(
    ("address", "proxies", "refused"),
    [
        ("127.0.0.1:6379", {}, True),
        ("127.0.0.1:6379", {"node": "HEALTHY"}, False),  # of the Serve that runs there
        ("192.0.2.1:6379", {}, False),
        ("auto", {}, False),
    ],
)
def test_a_port_that_is_taken_is_said_on_a_ray_whose_head_is_here(
    monkeypatch: pytest.MonkeyPatch, quiet: None, address: str, proxies: dict[str, str], refused: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("momu_dist.serving.running.serve", played := Serve(proxies))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(MomuError) as caught:
        run_service({"checkpoint": ["run"]}, {"port": other.getsockname()[1]})
    played.over.set()
    assert ("another program listens there" in str(caught.value)) == refused
    assert bool(played.asked) != refused
