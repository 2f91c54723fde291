"""Beat scores: cases by hand, properties, and what a user sees for bad times."""

from __future__ import annotations

import math

import numpy as np
import pytest

from momu_dist.core.metrics.beats import (
    BeatScore,
    aggregate,
    beat_score,
    d2m_bins_score,
    grid_bins,
    loris_bins_score,
    loris_grid_score,
    match_beats,
    validate,
)
from momu_dist.errors import DataError


def beats(seed: int, n: int = 40) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).uniform(0, 10, size=n))


def test_one_to_one_nearest_first_by_hand() -> None:
    assert match_beats([1.0], [0.95, 1.02, 1.06]) == 1  # a beat is used once
    # 1.00 is nearest to 1.02 and takes it; 1.08 is then left with 1.145, within 0.07.
    assert match_beats([1.0, 1.08], [1.02, 1.145]) == 2
    # Nearest first is not the largest matching: 1.06-1.05 goes first, and 1.00 and 1.12 lose their partners.
    assert match_beats([1.0, 1.06], [1.05, 1.20]) == 1


def test_the_tolerance_belongs_to_the_window() -> None:
    assert match_beats([1.0], [1.07]) == 1
    assert match_beats([1.0], [1.0701]) == 0
    assert match_beats([1.0], [1.09], tolerance_s=0.1) == 1


def test_score_by_hand() -> None:
    score = beat_score([1.0, 2.0, 3.0, 4.0], [1.05, 2.5, 4.0])
    assert (score.n_reference, score.n_generated, score.n_matched) == (4, 3, 2)
    assert (score.bcs, score.bhs) == (2 / 3, 0.5)
    assert score.f1 == pytest.approx(2 * 2 / (4 + 3))


def test_perfect_empty_and_shifted() -> None:
    times = np.arange(20) * 0.5
    assert beat_score(times, times).f1 == 1
    assert beat_score(times, times + 0.25).f1 == 0
    for reference, generated in (([], []), (times, []), ([], times)):
        score = beat_score(reference, generated)
        assert (score.bcs, score.bhs, score.f1, score.n_matched) == (0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_matching_is_symmetric_bounded_and_grows_with_the_tolerance(seed: int) -> None:
    a, b = beats(seed), beats(seed + 100, 25).round(2)
    found = [match_beats(a, b, tolerance_s) for tolerance_s in (0.01, 0.05, 0.07, 0.1)]
    assert found == [match_beats(b, a, tolerance_s) for tolerance_s in (0.01, 0.05, 0.07, 0.1)]
    assert max(found) <= 25
    assert found[0] <= found[1] <= found[3]


def test_grid_by_hand() -> None:
    # Seconds 0, 2, 3, 5 of the reference; two onsets in second 2 count once.
    reference = [0.9, 2.1, 2.8, 3.0, 5.99]
    generated = [0.0, 1.5, 3.99]
    np.testing.assert_array_equal(grid_bins(reference, 5.2), [1, 0, 1, 1, 0, 1])
    score = loris_grid_score(reference, generated, 5.2)
    assert (score.bcs, score.bhs, score.n_matched) == (2 / 3, 0.5, 2)
    assert loris_grid_score(reference, generated, 5.2, grid_hz=10.0).n_matched == 0


def test_grid_leaves_out_what_lies_beyond_the_generated_clip() -> None:
    np.testing.assert_array_equal(grid_bins([0.5, 3.0, 7.2], 3.0), [1, 0, 0])
    assert loris_grid_score([0.5, 3.5], [0.6], 2.0).bhs == 1


def test_reference_vector_is_cut_and_must_not_be_shorter() -> None:
    assert loris_bins_score([1, 0, 1, 1], [1, 1]).n_reference == 1
    with pytest.raises(DataError, match="cut the generated clip"):
        loris_bins_score([1, 0], [1, 0, 1])


def test_d2m_cover_needs_no_match() -> None:
    score = d2m_bins_score([1, 0, 0, 1], [0, 1, 1, 1])
    assert (score.cover, score.hit) == (1.5, 0.5)
    assert d2m_bins_score([0, 0], [1, 1]).cover == 0


def test_aggregate_by_hand() -> None:
    scores = [BeatScore.of(4, 2, 2), BeatScore.of(2, 4, 1)]  # BCS 1, .25; BHS .5, .5
    summary = aggregate(scores)
    assert (summary.bcs, summary.bhs, summary.hsd) == (0.625, 0.5, 0)
    assert summary.csd == pytest.approx(math.sqrt(2 * 0.375**2))
    assert summary.f1 == pytest.approx(2 * 0.625 * 0.5 / 1.125)


def test_f1_is_of_the_means_as_in_the_papers_tables() -> None:
    # Printed BCS, BHS and F1 are each rounded to 0.1, so the F1 of the printed means may be off by 0.05 + 0.05.
    for bcs, bhs, f1 in ((97.5, 98.6, 98.1), (66.6, 76.9, 71.4), (39.2, 56.3, 46.2)):
        assert aggregate([BeatScore(bcs, bhs, 0.0, 1, 1, 1)]).f1 == pytest.approx(f1, abs=0.1)


def test_aggregate_of_one_and_of_none() -> None:
    assert math.isnan(aggregate([BeatScore.of(1, 1, 1)]).csd)
    with pytest.raises(DataError, match="no beat scores"):
        aggregate([])


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([0.5, math.nan], "not finite"),
        ([0.5, math.inf], "not finite"),
        ([-0.1, 1.0], "-0.1 s"),
        ([1.0, 0.5], "not sorted: 1 s stands before 0.5 s"),
        ([[0.5], [1.0]], "shape"),
        ([500.0, 1000.0, 1500.0], "milliseconds"),
        ([4000.0], "milliseconds"),
    ],
)
def test_what_bad_times_are_told(times: list[float], said: str) -> None:
    for call in (validate, lambda bad: beat_score([1.0], bad), lambda bad: loris_grid_score(bad, [1.0], 5.0)):
        with pytest.raises(DataError, match=said):
            call(times)


def test_bad_tolerance_and_duration() -> None:
    with pytest.raises(DataError, match="tolerance"):
        match_beats([1.0], [1.0], tolerance_s=0)
    with pytest.raises(DataError, match="grid"):
        grid_bins([1.0], duration_s=0)
