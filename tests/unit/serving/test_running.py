"""How `momu serve` comes to its settings. No Ray here."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import ControllerOptions

from momu_dist.cli import main
from momu_dist.errors import ConfigError, Stopped
from momu_dist.serving.front import environment
from momu_dist.serving.running import run_service
from momu_dist.serving.settings import DEFAULT_CONFIG, read_config

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

    def __init__(self, proxies: dict[str, str]) -> None:
        self.proxies = proxies
        self.asked: list[str] = []
        self.variables: dict[str, str] = {}

    def status(self) -> Any:
        return SimpleNamespace(proxies=self.proxies)

    def start(self, *, controller_options: dict[str, Any], **_: Any) -> None:
        self.variables = ControllerOptions(**controller_options).runtime_env["env_vars"]  # type: ignore[index]
        os.kill(os.getpid(), signal.SIGTERM)

    def run(self, *_: Any, name: str, **__: Any) -> None:
        self.asked.append(f"run {name}")

    def delete(self, name: str) -> None:
        self.asked.append(f"delete {name}")

    def shutdown(self) -> None:
        self.asked.append("shutdown")


@pytest.mark.parametrize(
    ("proxies", "end"), [({}, "shutdown"), ({"node": "HEALTHY"}, "delete momu")], ids=["own", "shared"]
)
def test_a_signal_during_the_start_ends_what_is_ours(
    monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str], end: str
) -> None:
    played, before = Serve(proxies), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("momu_dist.serving.running.serve", played)
    monkeypatch.setattr("momu_dist.serving.running.build", lambda args: None)
    monkeypatch.setattr("momu_dist.serving.running.ray_session", lambda *_: nullcontext())
    monkeypatch.setattr("momu_dist.serving.running.exports_under", lambda path: {})
    with pytest.raises(Stopped):
        run_service({"checkpoint": ["run"], "max_body_mb": 3}, {})
    assert played.variables == environment(3.0)
    assert played.asked == ["run momu", end] and signal.getsignal(signal.SIGTERM) is before
