"""Numbers of the dry run, worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from momu_dist.config.load import config_from_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.core.models.dit import LatentDiT
from momu_dist.data.feed import make_plan
from momu_dist.data.manifest import Manifest
from momu_dist.train.build import feed_spec
from momu_dist.train.dry_run import memory_gb, parameter_counts, report, run_size, warnings


def config_of(root: Path | str, **other: object) -> RunConfig:
    tree = {
        "stage": "dit_a2m",
        "name": "run",
        "model": {"hidden_size": 64, "num_heads": 2, "depth": 1, "context_dim": 64},
        "data": {"root": str(root), "expected_clips": 100},
        "train": {"global_batch": 16, "epochs": 3},
    }
    for key, value in other.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    return config_from_dict(tree, where="test")


def test_steps_of_expected_clips(tmp_path: Path) -> None:
    size = run_size(config_of(tmp_path / "none"))
    assert (size.clips, size.counted, size.steps_per_epoch, size.total_steps) == (100, False, 6.25, 19)


def test_steps_of_counted_clips(prepared: Manifest) -> None:
    size = run_size(config_of(prepared.root))
    clips = prepared.split("train").num_rows
    assert size.counted and size.clips == clips and size.total_steps == -(-3 * clips // 16)


def test_max_steps_overrules_epochs(tmp_path: Path) -> None:
    assert run_size(config_of(tmp_path, train={"max_steps": 5})).total_steps == 5


def test_a_run_has_at_least_one_step(tmp_path: Path) -> None:
    assert run_size(config_of(tmp_path, train={"epochs": 0.001})).total_steps == 1


def test_parameters_are_those_of_the_real_network(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    real = sum(p.numel() for p in LatentDiT(config.model).parameters())
    assert parameter_counts(config) == {"dit": real}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("ddp", {"weights": 4, "gradients": 4, "optimizer": 8, "ema": 4}),
        ("zero1", {"weights": 4, "gradients": 4, "optimizer": 2, "ema": 4}),
        ("zero2", {"weights": 4, "gradients": 1, "optimizer": 2, "ema": 4}),
        ("zero3", {"weights": 1, "gradients": 1, "optimizer": 2, "ema": 1}),
    ],
)
def test_memory_bytes_a_parameter_on_four_workers(
    tmp_path: Path, strategy: str, expected: dict[str, float]
) -> None:
    config = config_of(tmp_path, train={"strategy": strategy, "workers": 4})
    parameters = parameter_counts(config)["dit"]
    bytes_each = {name: gb * 1e9 / parameters for name, gb in memory_gb(config).items()}
    assert bytes_each == pytest.approx(expected)
    without = config_of(tmp_path, train={"strategy": strategy, "workers": 4, "ema_decay": None})
    assert "ema" not in memory_gb(without)


def test_warnings_come_only_where_they_belong(prepared: Manifest) -> None:
    config = config_of(prepared.root, train={"max_steps": 10}, optim={"warmup_steps": 9})
    assert warnings(config, run_size(config)) == []
    late = config_of(prepared.root, train={"max_steps": 10}, optim={"warmup_steps": 40})
    (text,) = warnings(late, run_size(late))
    assert "warm-up of 40 steps never ends" in text and "25%" in text


def test_missing_data_is_said(tmp_path: Path) -> None:
    config = config_of(tmp_path / "none")
    (text,) = warnings(config, run_size(config))
    assert "no prepared data" in text and "100" in text


def test_report_says_how_a_step_is_made_up(tmp_path: Path) -> None:
    text = report(config_of(tmp_path, train={"workers": 2, "micro_batch": 4}))
    assert "16 samples = 2 workers x 2 micro-batches x 4" in text
    assert "clips to train on: 100 (expected)" in text and "warning: no prepared data" in text


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_report_builds_nothing_in_memory(stage: str, tmp_path: Path) -> None:
    """The paper's sizes are laid out without their gigabytes, in moments."""
    config = config_from_dict({"stage": stage, "name": "run", "data": {"root": str(tmp_path)}}, where="test")
    assert "parameters of" in report(config)


def test_other_clips_than_expected_are_said(prepared: Manifest) -> None:
    counted = run_size(config_of(prepared.root)).clips
    assert f"clips to train on: {counted} (counted; data.expected_clips is 100)" in report(
        config_of(prepared.root)
    )
    expected = config_of(prepared.root, data={"root": str(prepared.root), "expected_clips": counted})
    assert f"clips to train on: {counted}\n" in report(expected)


def bucketed(prepared: Manifest, stage: str = "dit_a2m", **other: dict[str, Any]) -> RunConfig:
    tree = {"stage": stage, "name": "run", "train": {"global_batch": 4, **other.get("train", {})}}
    return config_from_dict(
        {**tree, "data": {"root": str(prepared.root), **other.get("data", {})}}, where="test"
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"stage": "music_vae"}, ((8, 0.992), (8, 1.472))),  # 62 and 92 frames
        # 31 and 46 latents, of which an even number is used.
        ({}, ((8, 0.96), (8, 1.472))),
        ({"data": {"length_s": [0.5, 1.1]}}, ((8, 0.96), (8, 1.088))),
        ({"data": {"length_s": [0.5, 0.9]}}, ((16, 0.896),)),
        ({"data": {"length_buckets": 1}}, ((16, 1.472),)),
        ({"train": {"global_batch": 16}}, ((16, 1.472),)),  # two buckets would not fill a batch each
        ({"stage": "vocoder", "data": {"length_s": [1.28, 1.28]}}, ((16, 1.28),)),
    ],
)
def test_buckets_are_of_the_lengths_that_are_trained_on(
    unlike: Manifest, other: dict[str, Any], expected: tuple[tuple[int, float], ...]
) -> None:
    config = bucketed(unlike, **other)
    found = run_size(config).buckets
    assert [clips for clips, _ in found] == [clips for clips, _ in expected]
    assert [seconds for _, seconds in found] == pytest.approx([seconds for _, seconds in expected])


def test_buckets_of_the_dry_run_are_those_of_the_plan(unlike: Manifest) -> None:
    config = bucketed(unlike, stage="music_vae")
    planned = make_plan(feed_spec(config, unlike.root, ())).buckets
    assert run_size(config).buckets == tuple((bucket.clips, bucket.longest / 62.5) for bucket in planned)
    assert "buckets by length: 8 clips up to 0.992 s, 8 clips up to 1.47 s\n" in report(config)
    assert "buckets" not in report(config_of("none")).split("clips to train on")[1]
