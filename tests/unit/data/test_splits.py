"""Splits and windows: groups stay together, sizes come near, nothing depends on order."""

from __future__ import annotations

import pytest

from momu_dist.data.record import ClipRef
from momu_dist.data.splits import assign, windows

FRACTIONS = (0.9, 0.05, 0.05)


def sizes(assigned: list[int]) -> list[int]:
    return [assigned.count(split) for split in range(3)]


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_straddle_and_sizes_come_near(seed: int) -> None:
    keys = [f"g{k}" for k in range(200) for _ in range(1 + k % 7)]
    split = assign(keys, FRACTIONS, seed)
    assert all(len({s for key, s in zip(keys, split, strict=True) if key == g}) == 1 for g in set(keys))
    for size, fraction in zip(sizes(split), FRACTIONS, strict=True):
        assert abs(size - fraction * len(keys)) <= 7


def test_clips_on_their_own_give_exact_sizes() -> None:
    assert sizes(assign([f"c{k}" for k in range(100)], FRACTIONS, 0)) == [90, 5, 5]


def test_every_split_gets_a_group_where_there_are_three() -> None:
    keys = ["a"] * 50 + ["b"] * 40 + ["c"] * 3
    assert set(assign(keys, FRACTIONS, 0)) == {0, 1, 2}


@pytest.mark.parametrize(("keys", "expected"), [(["a", "b"], {0, 1}), (["a", "a"], {0}), ([], set())])
def test_training_comes_first_when_groups_are_few(keys: list[str], expected: set[int]) -> None:
    assert set(assign(keys, FRACTIONS, 0)) == expected


def test_order_of_the_clips_does_not_matter_and_the_seed_does() -> None:
    keys = [f"g{k}" for k in range(40)]
    forward = dict(zip(keys, assign(keys, (0.5, 0.25, 0.25), 1), strict=True))
    backward = dict(zip(keys[::-1], assign(keys[::-1], (0.5, 0.25, 0.25), 1), strict=True))
    other = dict(zip(keys, assign(keys, (0.5, 0.25, 0.25), 2), strict=True))
    assert forward == backward != other


def test_a_split_of_fraction_zero_stays_empty() -> None:
    assert sizes(assign([f"g{k}" for k in range(10)], (0.8, 0.2, 0.0), 0)) == [8, 2, 0]


@pytest.mark.parametrize(
    ("length_s", "expected"),
    [
        (60.0, [(0, 25), (25, 50)]),
        (64.0, [(0, 25), (25, 50), (50, 64)]),
        (49.99999, [(0, 25), (25, 49.99999)]),
        (25.0, [(0, 25)]),
        (9.0, [(0, 9)]),
    ],
)
def test_windows(length_s: float, expected: list[tuple[float, float]]) -> None:
    parts = windows(ClipRef("a", "g", 0.0, length_s, {"k": "1"}), 25.0)
    assert [(part.start_s, part.end_s) for part in parts] == expected
    assert {part.group_id for part in parts} == {"g"}
    assert len({part.clip_id for part in parts}) == len(parts)


def test_a_recording_of_unknown_length_and_no_window_stay_whole() -> None:
    unknown, known = ClipRef("a", "g", 0.0, None, {}), ClipRef("b", "g", 0.0, 99.0, {})
    assert windows(unknown, 25.0) == [unknown]
    assert windows(known, None) == [known]
