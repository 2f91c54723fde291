"""The record of samples: what a crash makes unreadable costs its line, not the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from momu_dist.train.seen import RecordedFeed, recorded_samples


class Counting:
    """Steps of one sample, named after its step."""

    plan_fingerprint = "plan"

    def steps(self, first: int, total: int) -> Iterator[Sequence[dict[str, Any]]]:
        for step in range(first, total):
            yield [{"epoch": 0, "clip_id": f"clip-{step}"}]

    def validation(self) -> Sequence[dict[str, Any]]:
        return []


def test_a_step_that_is_done_again_counts_once_and_a_line_of_zeros_is_left_out(tmp_path: Path) -> None:
    feed = RecordedFeed(Counting(), tmp_path, rank=0, world_size=1)
    list(feed.steps(0, 5))
    with (tmp_path / "rank-0.jsonl").open("ab") as file:
        file.write(b"\0" * 20 + b'\n{"step": 5}\n{"step"')
    assert list(recorded_samples(tmp_path)) == [0, 1, 2, 3, 4]
    list(feed.steps(3, 6))
    assert recorded_samples(tmp_path) == {step: [(0, f"clip-{step}")] for step in range(6)}
