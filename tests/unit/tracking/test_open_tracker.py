"""Which tracker a configuration gives, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.errors import ConfigError
from momu_dist.tracking import open_tracker
from momu_dist.tracking.null_tracker import NullTracker


def test_none_keeps_nothing_but_gives_ids(tmp_path: Path) -> None:
    tracker = open_tracker("none", "momu", tmp_path / "run")
    assert isinstance(tracker, NullTracker)
    assert tracker.start("run", {}, run_id="abc") == "abc"
    assert tracker.start("run", {}) != tracker.start("run", {})
    tracker.metrics(0, {"loss": 1.0})
    tracker.artifact(tmp_path / "absent.png")
    tracker.model("momu-dit_a2m", tmp_path / "best", {})
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["runs/mlflow", "file:///runs/mlflow", "sqlite", ""])
def test_a_uri_that_mlflow_does_not_offer_is_one_clear_sentence(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri is .* expected auto, none, sqlite"):
        open_tracker(uri, "momu", tmp_path)
