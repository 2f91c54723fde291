"""Beat scores: how many beats of generated music or motion meet those of its reference.

Conventions. Times are in seconds, ascending, 1-D. N_s beats of the synthesis, N_t of the reference, N_m matched:
BCS = N_m / N_s (the paper's coverage, a precision) and BHS = N_m / N_t (hit score, a recall); a score whose
denominator is 0 is 0. Two ways to count N_m: one-to-one within a tolerance (`beat_score`, the default), and LORIS'
grid of one second without tolerance (`loris_grid_score`), which the paper's Tables 2-4 use and which saturates on
dense beats. F1 of a data set is the harmonic mean of the mean BCS and the mean BHS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from momu_dist.errors import DataError

TOLERANCE_S = 0.07
MAX_TIME_S = 3600.0
_MAX_MEDIAN_GAP_S = 100.0  # beats in milliseconds lie hundreds apart even where a clip is short
_ROUNDING_S = 1e-9  # 1.07 - 1.0 exceeds 0.07 by a rounding error


@dataclass(frozen=True)
class BeatScore:
    """BCS = n_matched / n_generated, BHS = n_matched / n_reference, F1 their harmonic mean; each 0 if undefined."""

    bcs: float
    bhs: float
    f1: float
    n_reference: int
    n_generated: int
    n_matched: int

    @classmethod
    def of(cls, n_reference: int, n_generated: int, n_matched: int) -> BeatScore:
        """The score of these counts."""
        bcs = n_matched / n_generated if n_generated else 0.0
        bhs = n_matched / n_reference if n_reference else 0.0
        return cls(bcs, bhs, harmonic_mean(bcs, bhs), n_reference, n_generated, n_matched)


@dataclass(frozen=True)
class BeatSummary:
    """Scores over a data set: means BCS and BHS, their standard deviations CSD and HSD (ddof 1), F1 of the means."""

    bcs: float
    csd: float
    bhs: float
    hsd: float
    f1: float


@dataclass(frozen=True)
class D2MScore:
    """D2M-GAN's scores: cover = generated / reference beats (may exceed 1); hit = matched / reference beats."""

    cover: float
    hit: float


def validate(times_s: ArrayLike, name: str = "beats") -> NDArray[np.float64]:
    """The times as a float64 array (n,), if they are finite, not negative, ascending seconds; n = 0 is valid.

    Raises DataError otherwise. Times above an hour, or a median gap above 100 s, are taken for milliseconds.
    """
    times = np.asarray(times_s, dtype=np.float64)
    if times.ndim != 1:
        raise DataError(f"{name} have shape {times.shape}, expected (n,) times in seconds; flatten them")
    if not np.isfinite(times).all():
        raise DataError(
            f"{name} hold values that are not finite, expected times in seconds; drop or repair them"
        )
    if times.size == 0:
        return times
    if times.min() < 0:
        raise DataError(
            f"{name} hold {times.min():g} s, expected times from 0 s on; measure from the clip's start"
        )
    gaps = np.diff(times)
    if (gaps < 0).any():
        at = int(np.argmax(gaps < 0))
        raise DataError(
            f"{name} are not sorted: {times[at]:g} s stands before {times[at + 1]:g} s; sort them"
        )
    if times[-1] > MAX_TIME_S or (gaps.size and np.median(gaps) > _MAX_MEDIAN_GAP_S):
        raise DataError(
            f"{name} reach {times[-1]:g}, expected seconds up to {MAX_TIME_S:g} with gaps under {_MAX_MEDIAN_GAP_S:g}; "
            "are they in milliseconds? divide by 1000"
        )
    return times


def match_beats(reference_s: ArrayLike, generated_s: ArrayLike, tolerance_s: float = TOLERANCE_S) -> int:
    """How many pairs of beats lie within `tolerance_s`, each beat used once, the nearest pairs taken first.

    Among equally near pairs the earlier goes first, so the number does not depend on which side is the reference.
    Nearest first may leave a pair fewer than the largest possible matching, never more. No beats, no pairs.
    Raises DataError for invalid times (`validate`) or a tolerance that is not positive.
    """
    reference = validate(reference_s, "reference beats")
    generated = validate(generated_s, "generated beats")
    if not (math.isfinite(tolerance_s) and tolerance_s > 0):
        raise DataError(
            f"tolerance is {tolerance_s} s, expected a positive number of seconds such as {TOLERANCE_S}"
        )
    distance = np.abs(reference[:, None] - generated[None, :])
    rows, columns = np.nonzero(distance <= tolerance_s + _ROUNDING_S)
    nearest_first = np.lexsort((reference[rows] + generated[columns], distance[rows, columns].round(9)))
    free_reference = np.ones(len(reference), dtype=bool)
    free_generated = np.ones(len(generated), dtype=bool)
    n_matched = 0
    for pair in nearest_first:
        row, column = rows[pair], columns[pair]
        if free_reference[row] and free_generated[column]:
            free_reference[row] = free_generated[column] = False
            n_matched += 1
    return n_matched


def beat_score(reference_s: ArrayLike, generated_s: ArrayLike, tolerance_s: float = TOLERANCE_S) -> BeatScore:
    """BCS, BHS and F1 of one clip by one-to-one matching within `tolerance_s`; errors as in `match_beats`."""
    n_matched = match_beats(reference_s, generated_s, tolerance_s)
    return BeatScore.of(np.size(reference_s), np.size(generated_s), n_matched)


def grid_bins(times_s: ArrayLike, duration_s: float, grid_hz: float = 1.0) -> NDArray[np.int64]:
    """b (n,) of 0 and 1 with n = ceil(duration_s * grid_hz): 1 where at least one time falls into the bin.

    Times past the last bin are left out (LORIS' code would stop with an index error).
    Raises DataError for invalid times, or a duration or grid that is not positive.
    """
    times = validate(times_s)
    if not (math.isfinite(duration_s) and duration_s > 0 and math.isfinite(grid_hz) and grid_hz > 0):
        raise DataError(
            f"a grid of {grid_hz} Hz over {duration_s} s cannot be made, expected positive numbers"
        )
    bins = np.zeros(math.ceil(duration_s * grid_hz), dtype=np.int64)
    hit = (times * grid_hz).astype(np.int64)
    bins[hit[hit < len(bins)]] = 1
    return bins


def loris_bins_score(reference_bins: ArrayLike, generated_bins: ArrayLike) -> BeatScore:
    """LORIS' score of two vectors of 0 and 1; the reference is cut to the length of the generated one.

    Raises DataError if the reference is the shorter one. Source: OpenGVLab/LORIS `beats_scores.py`.
    """
    reference, generated = _cut_to_generated(reference_bins, generated_bins)
    return BeatScore.of(int(reference.sum()), int(generated.sum()), int((reference & generated).sum()))


def d2m_bins_score(reference_bins: ArrayLike, generated_bins: ArrayLike) -> D2MScore:
    """D2M-GAN's and CDCD's score of two vectors of 0 and 1; a reference without beats gives 0 (theirs divides by 0).

    Cutting and errors as in `loris_bins_score`. Source: L-YeZhu/Beats_Scores.
    """
    reference, generated = _cut_to_generated(reference_bins, generated_bins)
    total = int(reference.sum())
    if total == 0:
        return D2MScore(0.0, 0.0)
    return D2MScore(int(generated.sum()) / total, int((reference & generated).sum()) / total)


def loris_grid_score(
    reference_s: ArrayLike, generated_s: ArrayLike, duration_s: float, grid_hz: float = 1.0
) -> BeatScore:
    """LORIS' score of one clip: beats are counted by bins of 1 / grid_hz seconds, several in a bin once.

    duration_s: length of the generated clip; what the reference has beyond it is left out. Errors as in `grid_bins`.
    """
    return loris_bins_score(
        grid_bins(reference_s, duration_s, grid_hz), grid_bins(generated_s, duration_s, grid_hz)
    )


def aggregate(scores: Sequence[BeatScore]) -> BeatSummary:
    """The data set's BCS, CSD, BHS, HSD and F1; with a single clip the deviations are NaN.

    Raises DataError if there is no score. Source: LORIS (plain means, std with ddof 1, F1 = 2CH / (C + H) of the
    means), verified on the paper's Tables 2-5.
    """
    if not scores:
        raise DataError(
            "there are no beat scores to average, expected at least one clip; was every clip rejected?"
        )
    bcs = np.array([score.bcs for score in scores])
    bhs = np.array([score.bhs for score in scores])
    csd, hsd = (float(np.std(x, ddof=1)) if len(x) > 1 else math.nan for x in (bcs, bhs))
    mean_bcs, mean_bhs = float(bcs.mean()), float(bhs.mean())
    return BeatSummary(mean_bcs, csd, mean_bhs, hsd, harmonic_mean(mean_bcs, mean_bhs))


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), or 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def _cut_to_generated(
    reference_bins: ArrayLike, generated_bins: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    reference = np.asarray(reference_bins, dtype=bool)
    generated = np.asarray(generated_bins, dtype=bool)
    if reference.ndim != 1 or generated.ndim != 1 or len(reference) < len(generated):
        raise DataError(
            f"beat vectors have shapes {reference.shape} (reference) and {generated.shape} (generated), expected (n,) "
            "and (m,) with n >= m; cut the generated clip to its reference"
        )
    return reference[: len(generated)], generated
