"""The global order of samples: complete, repeatable, and ignorant of the number of workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momu_dist.data.plan import SamplePlan

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=8)


def groups_of(sizes: list[int]) -> list[list[int]]:
    groups, first = [], 0
    for size in sizes:
        groups.append(list(range(first, first + size)))
        first += size
    return groups


def stream(plan: SamplePlan, n: int) -> list[tuple[int, int]]:
    steps = -(-n // plan.global_batch)
    return [(s.epoch, s.clip) for step in range(steps) for s in plan.batch(step)][:n]


@given(SIZES, st.integers(0, 99), st.integers(1, 12), st.integers(1, 9))
def test_every_epoch_holds_each_clip_once(sizes: list[int], seed: int, batch: int, window: int) -> None:
    n = sum(sizes)
    plan = SamplePlan(groups_of(sizes), seed, batch, window)
    samples = stream(plan, 3 * n)
    for epoch in range(3):
        part = samples[epoch * n : (epoch + 1) * n]
        assert {e for e, _ in part} == {epoch}
        assert sorted(clip for _, clip in part) == list(range(n))


@given(SIZES, st.integers(0, 99), st.sampled_from([8, 16, 24]), st.integers(0, 40))
def test_shares_of_any_number_of_workers_make_up_the_batch(
    sizes: list[int], seed: int, batch: int, step: int
) -> None:
    plan = SamplePlan(groups_of(sizes), seed, batch, 3)
    for workers in (1, 2, 4, 8):
        shares = [plan.share(step, rank, workers) for rank in range(workers)]
        assert {len(share) for share in shares} == {batch // workers}
        assert [sample for share in shares for sample in share] == plan.batch(step)


@given(SIZES, st.integers(0, 99), st.integers(1, 12))
def test_the_order_does_not_depend_on_the_batch_size(sizes: list[int], seed: int, batch: int) -> None:
    n = 2 * sum(sizes)
    whole = SamplePlan(groups_of(sizes), seed, 1, 3)
    assert stream(SamplePlan(groups_of(sizes), seed, batch, 3), n) == stream(whole, n)


def test_what_is_left_of_an_epoch_is_filled_from_the_next() -> None:
    plan = SamplePlan(groups_of([3, 2]), seed=0, global_batch=4, window=2)
    assert [s.epoch for s in plan.batch(1)] == [0, 1, 1, 1]
    assert plan.steps_per_epoch == 1.25


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    plan = SamplePlan(groups_of([2, 1]), seed=0, global_batch=8, window=2)
    assert [s.epoch for s in plan.batch(0)] == [0, 0, 0, 1, 1, 1, 2, 2]


@given(SIZES, st.integers(0, 99), st.integers(1, 4))
def test_a_reader_of_one_window_reads_each_row_group_once_an_epoch(
    sizes: list[int], seed: int, window: int
) -> None:
    groups = groups_of(sizes)
    group_of = {clip: g for g, group in enumerate(groups) for clip in group}
    order = [group_of[clip] for _, clip in stream(SamplePlan(groups, seed, 1, window), sum(sizes))]
    for start in range(0, len(groups), window):
        inside = set(order[:1])
        taken = 0
        while order and (order[0] in inside or len(inside) < min(window, len(groups) - start)):
            inside.add(order.pop(0))
            taken += 1
        # The window is over when all clips of its row groups, and no others, have had their turn.
        assert taken == sum(len(groups[g]) for g in inside)
        assert not inside & set(order)
    assert not order


def test_epochs_and_seeds_differ() -> None:
    groups = groups_of([4] * 8)
    first = stream(SamplePlan(groups, 0, 4, 4), 64)
    assert [c for _, c in first[:32]] != [c for _, c in first[32:]]
    assert first != stream(SamplePlan(groups, 1, 4, 4), 64)
    assert first == stream(SamplePlan(groups, 0, 4, 4), 64)


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    plan = SamplePlan(groups_of([4] * 8), 0, 5, 2)
    late = plan.batch(60)
    for step in range(60):
        plan.batch(step)
    assert plan.batch(60) == late


@pytest.mark.parametrize(
    "other",
    [
        {"row_groups": groups_of([4, 3, 1])},
        {"row_groups": groups_of([3, 4])},
        {"seed": 1},
        {"global_batch": 8},
        {"window": 3},
    ],
)
def test_fingerprint_changes_with_what_matters(other: dict[str, object]) -> None:
    given_ = {"row_groups": groups_of([4, 3]), "seed": 0, "global_batch": 4, "window": 2}
    same = SamplePlan(**given_).fingerprint()  # type: ignore[arg-type]
    assert same == SamplePlan(**given_).fingerprint()  # type: ignore[arg-type]
    assert same != SamplePlan(**{**given_, **other}).fingerprint()  # type: ignore[arg-type]
