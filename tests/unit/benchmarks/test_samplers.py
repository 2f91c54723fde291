"""The sampler benchmark runs on tiny models, counts what it says it counts, and measures distances as worked by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from momu_dist.core import catalog
from momu_dist.data.manifest import Manifest


@pytest.fixture()
def samplers() -> ModuleType:
    return importlib.import_module("samplers")


def test_the_table_counts_calls_and_rows(
    samplers: ModuleType,
    tiny_runs: Path,
    prepared: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(samplers, "SETTINGS", (("ddim", 4), ("dpm++", 3)))
    samplers.main(
        ["--checkpoint", str(tiny_runs), "--data", str(prepared.root), "-n", "2", "--guidance", "2",
         "--reference-steps", "4", "--rounds", "1"]
    )  # fmt: skip
    assert samplers.KEPT not in catalog.SAMPLERS
    text = capsys.readouterr().out
    assert "torch" in text and "DDIM 4" in text
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    rows = [dict(zip(samplers.HEAD, line, strict=True)) for line in lines[2:]]
    assert {row["direction"] for row in rows} == {"m2a", "a2m"} and len(rows) == 4
    for row in rows:
        # Under guidance a call holds both branches of each sample.
        assert row["network calls"] == row["steps"] and int(row["rows a sample"]) == 2 * int(row["steps"])
        assert (row["distance"] == "0.0000") == (row["sampler"] == "ddim")  # the reference itself


def test_distance_is_the_mean_of_each_samples_own_part(samplers: ModuleType) -> None:
    reference = {1: torch.ones(2, 3), 2: torch.ones(2, 3)}
    latents = {1: torch.tensor([[2.0, 1.0, 9.0], [1.0, 2.0, 9.0]]), 2: torch.ones(2, 3)}
    # Sample 1: |(1, 0; 0, 1)| / |(1, 1; 1, 1)| over its two latents; sample 2: nothing.
    assert samplers.distance(latents, reference, {1: 2, 2: 3}) == pytest.approx((2**0.5 / 2 + 0) / 2)
