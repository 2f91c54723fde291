"""A run's folder: continued with the same settings, refused with others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from momu_dist.config.load import config_from_dict, resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.errors import ConfigError
from momu_dist.train.folder import RunFolder, read_metrics


def config_of(out: Path, **other: object) -> RunConfig:
    return config_from_dict({"stage": "dit_a2m", "name": "run", "out": str(out), **other}, where="test")


ORIGIN = {"data": "d1", "music_vae": "w1"}


def opened(config: RunConfig, origin: dict[str, str] = ORIGIN) -> RunFolder:
    folder = RunFolder(config)
    folder.open(config, origin)
    return folder


def test_open_writes_the_resolved_config(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    folder = opened(config)
    tree = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert folder.path == tmp_path / "run" and tree == resolved_dict(config)
    assert config_from_dict(tree, where="there") == config


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("seed", 1),
        ("model", {"hidden_size": 64, "num_heads": 2}),
        ("loss", {"condition_drop": 0.2}),
        ("optim", {"lr": 1.0}),
        ("data.length_s", {"length_s": [1, 2]}),
        ("train.precision", {"precision": "bf16"}),
        ("train.ema_decay", {"ema_decay": 0.5}),
        ("stage", "dit_m2a"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path: Path, section: str, value: object) -> None:
    folder = opened(config_of(tmp_path))
    before = (folder.path / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=f"holds a run with another {section};") as caught:
        opened(config_of(tmp_path, **{section.split(".")[0]: value}))
    assert str(folder.path) in str(caught.value)
    assert (folder.path / "config.yaml").read_text() == before


def test_check_alone_creates_nothing(tmp_path: Path) -> None:
    RunFolder(config_of(tmp_path)).check(config_of(tmp_path), ORIGIN)
    assert not (tmp_path / "run").exists()


def test_other_data_or_weights_are_refused_wherever_they_lie(tmp_path: Path) -> None:
    opened(config_of(tmp_path))
    opened(config_of(tmp_path, inputs={"music_vae": "moved"}, data={"root": "moved"}))
    for name in ORIGIN:
        with pytest.raises(ConfigError, match=f"holds a run with another {name};"):
            opened(config_of(tmp_path), {**ORIGIN, name: "other"})


@pytest.mark.parametrize("text", ["", "a: [", "[]"])
def test_a_torn_config_is_one_sentence(tmp_path: Path, text: str) -> None:
    folder = opened(config_of(tmp_path))
    (folder.path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml .* delete that run folder"):
        opened(config_of(tmp_path))


def test_metrics_of_what_is_done_again_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    for step in range(1, 6):
        folder.append_metrics(step, {"total": float(step)})
    with folder.metrics.open("a") as file:
        file.write('{"step": 6, "to')
    folder.rewind_metrics(3)
    assert [entry["step"] for entry in read_metrics(folder.metrics)] == [1, 2, 3]


def test_what_does_not_change_the_result_may_change(tmp_path: Path) -> None:
    opened(config_of(tmp_path))
    opened(config_of(tmp_path, train={"log_every": 3, "max_failures": 9}, tracking={"uri": "none"}))


def test_failure_is_kept_until_the_next_attempt(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    folder = opened(config)
    assert folder.failure() is None
    folder.fail("it broke.")
    assert RunFolder(config).failure() == "it broke."
    assert opened(config).failure() is None


def test_finished_and_tracking_id_come_back(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    assert folder.finished() is None and folder.tracking_id() is None
    folder.finish({"steps": 4})
    folder.keep_tracking_id("abc")
    assert folder.finished() == {"steps": 4} and folder.tracking_id() == "abc"


def test_metrics_are_appended_line_by_line(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    folder.append_metrics(1, {"total": 0.5})
    folder.append_metrics(2, {"total": 0.25})
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [(1, 0.5), (2, 0.25)]
