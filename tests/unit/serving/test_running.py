"""How `momu serve` comes to its settings. No Ray here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from momu_dist.cli import main
from momu_dist.errors import ConfigError
from momu_dist.serving.running import DEFAULT_CONFIG, read_config

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
