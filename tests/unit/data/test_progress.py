"""A log gets whole lines, few of them."""

from __future__ import annotations

import io
import sys

import pytest

from momu_dist.data import progress as module
from momu_dist.data.progress import progress


def logged(monkeypatch: pytest.MonkeyPatch, interval_s: float) -> list[str]:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(module, "LOG_INTERVAL_S", interval_s)
    with progress(50, "run", "step", initial=10) as bar:
        for step in range(10, 50):
            bar.set_postfix({"total": step}, refresh=False)
            bar.update(1)
    assert "\r" not in log.getvalue() and log.getvalue().endswith("\n")
    return log.getvalue().splitlines()


def test_a_log_gets_the_first_and_the_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = logged(monkeypatch, 3600.0)
    assert first.startswith("run: 10 of 50 step") and last.startswith("run: 50 of 50 step")
    assert "total=49" in last


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logged(monkeypatch, 0.0)
    assert len(lines) > 10 and lines[-1].startswith("run: 50 of 50 step")
