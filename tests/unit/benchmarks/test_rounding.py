"""The benchmark of rounding compares each sample with itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture()
def rounding() -> ModuleType:
    return importlib.import_module("rounding")


def test_on_a_cpu_samples_are_alike_alone_and_in_company(
    rounding: ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rounding, "ASKED", ((1.5, "ddim", 3), (2.5, "dpm++", 2)))
    rounding.main(["--checkpoint", str(tiny_runs)])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["TF32", "fp32"]
    assert all(float(difference) < 1e-5 for row in rows for difference in row[1:])


def test_a_difference_is_relative_to_the_largest_value(rounding: ModuleType) -> None:
    assert rounding.difference([(torch.tensor([1.0, 4.0]),)], [(torch.tensor([1.5, 5.0]),)]) == "2.0e-01"
