"""The benchmark of joint sampling runs on tiny models, and says no more of the beats than they show."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest

KINDS = (("naive", "ddim", 4), ("ours", "ddim", 4), ("ours, alone", "dpm++", 3))


@pytest.fixture()
def sampling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("sampling")
    monkeypatch.setattr(module, "KINDS", KINDS)
    return module


def test_the_table_has_calls_and_how_sure_the_beats_are(
    sampling: ModuleType, tiny_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling.main(["--checkpoint", str(tiny_runs), "-n", "2", "--seconds", "1.5", "--rounds", "1"])
    text = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    rows = [dict(zip(sampling.HEAD, line, strict=True)) for line in lines[2:]]
    assert [row["calls a sample"] for row in rows[:2]] == ["12.0", "6.0"]
    assert all(float(row["error"]) >= 0 for row in rows)
    assert "- dpm++ with 3 steps less ddim with 4:" in text and "load of the machine by others" in text


def test_the_standard_error_is_that_of_the_mean(sampling: ModuleType) -> None:
    mean, error = sampling.mean_and_error([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5 and error == pytest.approx(math.sqrt(5 / 3 / 4))
    assert math.isnan(sampling.mean_and_error([1.0])[1])


@pytest.mark.parametrize(
    ("reference", "found", "said"),
    [
        ([0.1, 0.5, 0.9], [0.2, 0.4, 0.9], "+0.000 +- 0.058, not told apart"),
        (
            [0.1, 0.5, 0.9],
            [0.2, 0.61, 0.99],
            "+0.100 +- 0.006, more beats",
        ),  # though the samples differ far more
        ([0.2, 0.6, 1.0], [0.1, 0.49, 0.91], "-0.100 +- 0.006, fewer beats"),
        ([0.2], [0.9], "+0.700 +- nan, not told apart"),
    ],
)
def test_beats_are_compared_sample_by_sample(
    sampling: ModuleType, reference: list[float], found: list[float], said: str
) -> None:
    results = {
        KINDS[0]: sampling.Result(beats=reference), KINDS[1]: sampling.Result(beats=reference),
        KINDS[2]: sampling.Result(beats=found),
    }  # fmt: skip
    assert said in sampling.closing(results)
