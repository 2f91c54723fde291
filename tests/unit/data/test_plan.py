"""The global order of samples: complete, repeatable, of one length a batch, and ignorant of the number of workers."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momu_dist.core.seeds import numpy_rng
from momu_dist.data.plan import Bucket, SamplePlan, choose_buckets

WORKERS = (1, 2, 4, 8)
EPOCHS = 3
checked = settings(derandomize=True, deadline=None, max_examples=120)

Sample = tuple[int, int]
Given = dict[str, object]  # what a plan is made of


def groups_of(sizes: list[int]) -> list[list[int]]:
    groups, first = [], 0
    for size in sizes:
        groups.append(list(range(first, first + size)))
        first += size
    return groups


def plan_of(sizes: list[int], seed: int, global_batch: int, window: int) -> SamplePlan:
    """A plan of clips that are all as long."""
    return SamplePlan(groups_of(sizes), [7] * sum(sizes), seed, global_batch, window, most_buckets=4)


@st.composite
def made_of(draw: st.DrawFn) -> Given:
    """Any set of clips, in which a few lengths, many, or one may occur, and any way to batch it."""
    groups = groups_of(draw(st.lists(st.integers(1, 7), min_size=1, max_size=9)))
    n = sum(map(len, groups))
    longest = draw(st.sampled_from([1, 3, 1000]))
    return {
        "row_groups": groups,
        "lengths": draw(st.lists(st.integers(1, longest), min_size=n, max_size=n)),
        "seed": draw(st.integers(0, 99)),
        "global_batch": draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16, 24])),
        "window": draw(st.integers(1, 9)),
        "most_buckets": draw(st.integers(1, 5)),
    }


def plan(given_: Given) -> SamplePlan:
    return SamplePlan(**given_)  # type: ignore[arg-type]


def batch(plan: SamplePlan, step: int) -> list[Sample]:
    return [(sample.epoch, sample.clip) for sample in plan.batch(step)]


def stream(plan: SamplePlan, n: int) -> list[Sample]:
    steps = -(-n // plan.global_batch)
    return [sample for step in range(steps) for sample in batch(plan, step)][:n]


def bucket_of(plan: SamplePlan, length: int) -> int:
    return next(i for i, bucket in enumerate(plan.buckets) if length <= bucket.longest)


def steps_of(plan: SamplePlan) -> int:
    """Steps after which every bucket has passed its first EPOCHS epochs."""
    return int((EPOCHS + 1) * plan.steps_per_epoch) + len(plan.buckets)


def endless(row_groups: list[list[int]], seed: int, window: int) -> Iterator[Sample]:
    """The order of all clips, epoch after epoch, written down anew and by itself."""
    epoch = 0
    while True:
        rng = numpy_rng(seed, "plan", epoch)
        order = rng.permutation(len(row_groups))
        for start in range(0, len(order), window):
            clips = [clip for group in order[start : start + window] for clip in row_groups[group]]
            yield from ((epoch, int(clip)) for clip in rng.permutation(clips))
        epoch += 1


# ---------------------------------------------------------------------------------------- any set of clips


@checked
@given(made_of())
def test_batches_are_those_of_queues_that_are_filled_one_clip_at_a_time(given_: Given) -> None:
    """The plan jumps to any step; replaying the whole stream through one queue a bucket gives the same."""
    mine = plan(given_)
    queues: list[list[Sample]] = [[] for _ in mine.buckets]
    replayed = []
    source = endless(given_["row_groups"], given_["seed"], given_["window"])  # type: ignore[arg-type]
    while len(replayed) < steps_of(mine):
        sample = next(source)
        queue = queues[bucket_of(mine, given_["lengths"][sample[1]])]  # type: ignore[index]
        queue.append(sample)
        if len(queue) == mine.global_batch:
            replayed.append(queue.copy())
            queue.clear()
    assert [batch(mine, step) for step in range(len(replayed))] == replayed


@checked
@given(made_of())
def test_one_bucket_is_the_stream_of_epochs_cut_into_batches(given_: Given) -> None:
    mine = plan({**given_, "most_buckets": 1})
    n = steps_of(mine) * mine.global_batch
    expected = list(islice(endless(given_["row_groups"], given_["seed"], given_["window"]), n))  # type: ignore[arg-type]
    assert stream(mine, n) == expected


@checked
@given(made_of())
def test_nothing_is_lost_and_nothing_twice(given_: Given) -> None:
    mine = plan(given_)
    samples = stream(mine, steps_of(mine) * mine.global_batch)
    assert len(set(samples)) == len(samples)
    assert {(epoch, clip) for epoch in range(EPOCHS) for clip in range(mine.n_clips)} <= set(samples)


@checked
@given(made_of())
def test_a_bucket_uses_up_an_epoch_before_it_takes_from_the_next(given_: Given) -> None:
    mine = plan(given_)
    lengths: list[int] = given_["lengths"]  # type: ignore[assignment]
    taken: dict[int, list[Sample]] = {}
    for step in range(steps_of(mine)):
        samples = batch(mine, step)
        (bucket,) = {bucket_of(mine, lengths[clip]) for _, clip in samples}  # one bucket a batch
        taken.setdefault(bucket, []).extend(samples)
    for bucket, samples in taken.items():
        size = mine.buckets[bucket].clips
        for epoch, start in enumerate(range(0, len(samples), size)):
            part = samples[start : start + size]
            assert {own for own, _ in part} == {epoch}
            assert len({clip for _, clip in part}) == len(part)


@checked
@given(made_of())
def test_shares_of_any_number_of_workers_make_up_the_batch(given_: Given) -> None:
    mine = plan(given_)
    for workers in (w for w in WORKERS if mine.global_batch % w == 0):
        for step in range(0, steps_of(mine), 3):
            shares = [mine.share(step, rank, workers) for rank in range(workers)]
            assert {len(share) for share in shares} == {mine.global_batch // workers}
            assert [sample for share in shares for sample in share] == mine.batch(step)


@checked
@given(made_of(), st.lists(st.tuples(st.integers(0, 200), st.sampled_from(WORKERS)), max_size=4))
def test_a_run_cut_anywhere_and_continued_by_other_workers_sees_the_same(
    given_: Given, cuts: list[tuple[int, int]]
) -> None:
    whole = plan(given_)
    total = steps_of(whole)
    pieces = sorted((min(cut, total), w) for cut, w in cuts if whole.global_batch % w == 0)
    ends = [cut for cut, _ in pieces] + [total]
    seen = []
    for (first, workers), end in zip([(0, 1), *pieces], ends, strict=True):
        restarted = plan(given_)
        for step in range(first, end):
            for rank in range(workers):
                seen += [(step, sample) for sample in restarted.share(step, rank, workers)]
    assert seen == [(step, sample) for step in range(total) for sample in whole.batch(step)]


@checked
@given(made_of())
def test_a_batch_is_the_same_whenever_it_is_asked_for(given_: Given) -> None:
    one, other = plan(given_), plan(given_)
    steps = range(steps_of(one))
    assert [one.batch(step) for step in steps] == [other.batch(step) for step in reversed(steps)][::-1]
    far = 10**9
    assert len(set(batch(plan(given_), far))) == one.global_batch


# -------------------------------------------------------------------------------------------- worked by hand


def test_what_is_left_of_an_epoch_is_filled_from_the_next() -> None:
    plan = plan_of([3, 2], seed=0, global_batch=4, window=2)
    assert [s.epoch for s in plan.batch(1)] == [0, 1, 1, 1]
    assert plan.steps_per_epoch == 1.25


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    plan = plan_of([2, 1], seed=0, global_batch=8, window=2)
    assert [s.epoch for s in plan.batch(0)] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_each_bucket_carries_its_own_remainder() -> None:
    """Five short and six long clips in fours: one batch of each an epoch, and every second epoch one more of the long."""
    lengths = [1] * 5 + [9] * 6
    plan = SamplePlan([list(range(11))], lengths, seed=0, global_batch=4, window=1, most_buckets=2)
    assert plan.buckets == [Bucket(5, 1), Bucket(6, 9)]
    by_bucket: dict[int, list[list[int]]] = {1: [], 9: []}
    for step in range(5):  # all that epochs 0 and 1 fill: 10 // 4 + 12 // 4
        samples = plan.batch(step)
        by_bucket[lengths[samples[0].clip]].append([sample.epoch for sample in samples])
    assert by_bucket == {1: [[0, 0, 0, 0], [0, 1, 1, 1]], 9: [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]}


def test_epochs_and_seeds_differ() -> None:
    first = stream(plan_of([4] * 8, 0, 4, 4), 64)
    assert [c for _, c in first[:32]] != [c for _, c in first[32:]]
    assert first != stream(plan_of([4] * 8, 1, 4, 4), 64)
    assert first == stream(plan_of([4] * 8, 0, 4, 4), 64)


# ------------------------------------------------------------------------------------------------ row groups


@checked
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(0, 99), st.integers(1, 4))
def test_a_reader_of_one_window_reads_each_row_group_once_an_epoch(
    sizes: list[int], seed: int, window: int
) -> None:
    groups = groups_of(sizes)
    group_of = {clip: g for g, group in enumerate(groups) for clip in group}
    order = [group_of[clip] for _, clip in stream(plan_of(sizes, seed, 1, window), sum(sizes))]
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


@pytest.mark.parametrize("lengths", ["mixed", "sorted", "in runs", "mostly long", "equal"])
def test_row_groups_at_hand_spare_nearly_all_second_reads(lengths: str) -> None:
    size, n_groups, epochs = 16, 120, 3
    n = size * n_groups
    drawn = np.random.default_rng(0).integers(1, 1000, n)
    of_kind = {
        "mixed": drawn,
        "sorted": np.sort(drawn),
        "in runs": np.repeat(drawn[: n // 8], 8),
        "mostly long": np.minimum(4 * drawn, 1000),
        "equal": np.full(n, 5),
    }
    plan = SamplePlan(groups_of([size] * n_groups), of_kind[lengths], 0, 32, 8, most_buckets=4)
    assert plan.row_groups_at_hand <= 8 + 2 + 2 * 4 * 32 // size + 1
    held: OrderedDict[int, None] = OrderedDict()
    reads = 0
    for _, clip in stream(plan, epochs * n):
        group = clip // size
        reads += group not in held
        held[group] = None
        held.move_to_end(group)
        if len(held) > plan.row_groups_at_hand:
            held.popitem(last=False)
    assert reads < 1.25 * epochs * n_groups


# --------------------------------------------------------------------------------------------------- buckets


@pytest.mark.parametrize(
    ("lengths", "most", "least", "expected"),
    [
        ([], 4, 1, []),
        ([5] * 9, 4, 2, [(9, 5)]),
        ([3, 1, 4, 2], 4, 1, [(1, 1), (1, 2), (1, 3), (1, 4)]),
        ([3, 1, 4, 2], 2, 1, [(2, 2), (2, 4)]),
        ([3, 1, 4, 2], 1, 1, [(4, 4)]),
        ([3, 1, 4, 2], 4, 5, [(4, 4)]),  # fewer than one batch
        ([1, 2, 3, 4, 5, 6, 7], 4, 3, [(3, 3), (4, 7)]),
        ([1] * 5 + [2] * 3, 2, 1, [(5, 1), (3, 2)]),  # an even cut would part the ones
        ([1] * 2 + [2] * 30, 4, 2, [(32, 2)]),  # two are less than half of an even share of eight
        ([1] * 4 + [2] * 28, 4, 2, [(4, 1), (28, 2)]),
        ([1] * 3 + [2] * 97 + [9] * 100, 4, 3, [(100, 2), (100, 9)]),
    ],
)
def test_buckets_worked_by_hand(
    lengths: list[int], most: int, least: int, expected: list[tuple[int, int]]
) -> None:
    assert [(b.clips, b.longest) for b in choose_buckets(lengths, most, least)] == expected


@checked
@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(1, 6), st.integers(1, 20))
def test_buckets_hold_every_clip_part_no_length_and_fill_a_batch(
    lengths: list[int], most: int, least: int
) -> None:
    buckets = choose_buckets(lengths, most, least)
    ends = [bucket.longest for bucket in buckets]
    assert 1 <= len(buckets) <= most and ends == sorted(set(ends)) and ends[-1] == max(lengths)
    inside = Counter(next(end for end in ends if length <= end) for length in lengths)
    assert [inside[end] for end in ends] == [bucket.clips for bucket in buckets]
    assert set(ends) <= set(lengths)
    if len(buckets) > 1:
        assert min(bucket.clips for bucket in buckets) >= max(least, len(lengths) // (2 * most))


@checked
@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 9))
def test_buckets_of_unlike_lengths_are_as_many_as_asked_and_nearly_equal(
    most: int, least: int, more: int
) -> None:
    n = most * least + more
    sizes = [bucket.clips for bucket in choose_buckets(range(n), most, least)]
    assert max(sizes) - min(sizes) <= 1 or len(sizes) < most
    if more == 0 or n >= most * (least + 1):
        assert len(sizes) == most


# ------------------------------------------------------------------------------------------------ fingerprint

MIXED: Given = {
    "row_groups": groups_of([4, 3]),
    "lengths": [1, 9, 1, 9, 1, 9, 9],
    "seed": 0,
    "global_batch": 2,
    "window": 2,
    "most_buckets": 2,
}


@pytest.mark.parametrize(
    "other",
    [
        {"row_groups": groups_of([4, 2, 1])},
        {"row_groups": groups_of([3, 4])},
        {"lengths": [9, 1, 1, 9, 1, 9, 9]},
        {"seed": 1},
        {"global_batch": 3},
        {"window": 3},
        {"most_buckets": 1},
    ],
)
def test_fingerprint_changes_with_what_matters(other: Given) -> None:
    assert plan(MIXED).fingerprint() == plan(MIXED).fingerprint()
    assert plan({**MIXED, **other}).fingerprint() != plan(MIXED).fingerprint()


def test_fingerprint_is_of_the_order_alone() -> None:
    """Other lengths that choose the same buckets, and lengths where there is one bucket, change no batch."""
    longer = {**MIXED, "lengths": [2, 8, 1, 8, 2, 9, 9]}
    assert plan(longer).fingerprint() == plan(MIXED).fingerprint()
    assert stream(plan(longer), 40) == stream(plan(MIXED), 40)
    unlike = plan({**MIXED, "most_buckets": 1})
    equal = plan({**MIXED, "lengths": [5] * 7})
    assert unlike.fingerprint() == equal.fingerprint() and stream(unlike, 40) == stream(equal, 40)
