"""Directogram, amplitude and kinematic beats."""

from __future__ import annotations

import numpy as np
import pytest

from momu_dist.core.metrics.beats import beat_score
from momu_dist.core.motion.cleaning import grid_frames, resample_to_grid
from momu_dist.core.motion.kinematics import (
    amplitude,
    directogram,
    flux,
    kinematic_beats,
    normalised_amplitude,
)
from momu_dist.errors import ClipError

DURATION_S = 25.0
LAG_S = 0.013  # of a limb that sets off abruptly, stated in `kinematic_beats`


def dancer(fps: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Move times (n,) s, and motion (T, 14, 2) px with 1 px jitter: limbs go 1 - (1 + au) exp(-au) from each on."""
    rng = np.random.default_rng(seed)
    moves_s = np.cumsum(rng.uniform(0.42, 0.75, size=100))
    moves_s = moves_s[moves_s < DURATION_S - 0.6]
    seconds = np.arange(int(DURATION_S * fps)) / fps
    motion = np.repeat(rng.uniform(100, 400, size=(1, 14, 2)), len(seconds), axis=0)
    for move_s in moves_s:
        since = rng.uniform(14, 20) * np.clip(seconds - move_s, 0, None)
        angle, length = rng.uniform(0, 2 * np.pi, 5), rng.uniform(25, 60, 5)
        step = np.stack([np.cos(angle), np.sin(angle)], axis=1) * length[:, None]
        motion[:, rng.choice(14, 5, replace=False)] += (1 - (1 + since) * np.exp(-since))[
            :, None, None
        ] * step
    return moves_s, motion + rng.normal(size=motion.shape)


def beats_of(motion: np.ndarray, fps: float) -> np.ndarray:
    return kinematic_beats(resample_to_grid(motion, fps, grid_frames(DURATION_S)))


def test_directogram_of_one_step_by_hand() -> None:
    motion = np.zeros((2, 2, 2))
    motion[1] = [(3, 4), (-3, -4)]  # 53.1 and 233.1 degrees
    np.testing.assert_allclose(directogram(motion, 4), [[5, 0, 5, 0]])
    np.testing.assert_allclose(
        directogram(motion, 4, angle="atan"), [[0, 10, 0, 0]]
    )  # opposite ways fold together
    # Centres 45, 135, 225, 315 degrees, +-90 degrees: each step counts in the two bins nearest.
    np.testing.assert_allclose(directogram(motion, 4, window="literal"), [[5, 5, 5, 5]])


@pytest.mark.parametrize("window", ["hard", "literal"])
@pytest.mark.parametrize("n_bins", [3, 10, 128])
def test_turning_by_a_bin_rolls_the_directogram(n_bins: int, window: str) -> None:
    motion = np.random.default_rng(0).normal(size=(30, 14, 2)) * 20
    turn = 2 * np.pi / n_bins
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned = directogram(motion @ rotation, n_bins, window=window)  # type: ignore[arg-type]
    wanted = np.roll(directogram(motion, n_bins, window=window), 1, axis=1)  # type: ignore[arg-type]
    np.testing.assert_allclose(turned, wanted, atol=1e-6)


def test_hard_bins_share_out_all_movement_and_an_angle_just_under_zero_is_in_a_bin() -> None:
    motion = np.random.default_rng(1).normal(size=(50, 14, 2))
    travelled = np.linalg.norm(np.diff(motion, axis=0), axis=-1).sum(axis=1)
    np.testing.assert_allclose(directogram(motion).sum(axis=1), travelled)
    tiny = np.array([[[0.0, 0.0]], [[1.0, -1e-300]]])
    np.testing.assert_allclose(directogram(tiny).sum(), 1.0)


def test_amplitude_counts_gains_only_and_starts_at_zero() -> None:
    np.testing.assert_allclose(flux([[1, 5], [4, 0], [2, 2]]), [0, 3, 2])
    motion = np.zeros((5, 1, 2))
    motion[:, 0, 0] = [0, 1, 2, 5, 6]
    np.testing.assert_allclose(amplitude(motion), [0, 0, 0, 2, 0])
    np.testing.assert_allclose(normalised_amplitude(motion), [0, 0, 0, 1, 0], atol=1e-7)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_too_short_or_resting_motion_has_no_amplitude_and_no_beats(frames: int) -> None:
    assert directogram(np.ones((frames, 14, 2))).shape == (max(frames - 1, 0), 10)
    np.testing.assert_array_equal(amplitude(np.ones((frames, 14, 2))), np.zeros(frames))
    assert kinematic_beats(np.ones((frames, 14, 2))).shape == (0,)
    rest = np.full((400, 14, 2), 311.7)
    np.testing.assert_array_equal(normalised_amplitude(rest), np.zeros(400))
    assert kinematic_beats(rest).shape == (0,)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0])
def test_beats_of_a_dancer_with_jitter(fps: float, seed: int) -> None:
    moves_s, motion = dancer(fps, seed)
    beats_s = beats_of(motion, fps)
    assert beats_s.dtype == np.float64
    assert beat_score(moves_s, beats_s, tolerance_s=0.07).f1 >= 0.95
    assert beat_score(dancer(fps, seed + 50)[0], beats_s, tolerance_s=0.07).f1 < 0.5


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0])
def test_the_lag_is_the_stated_one_at_every_rate(fps: float) -> None:
    lags = []
    for seed in range(4):
        moves_s, motion = dancer(fps, seed)
        lag = beats_of(motion, fps)[:, None] - moves_s[None]
        lags += list(lag[np.abs(lag) < 0.1])
    assert np.median(lags) == pytest.approx(LAG_S, abs=0.004)


def test_scale_and_place_of_the_dancer_do_not_matter() -> None:
    _, motion = dancer(30.0, 3)
    np.testing.assert_array_equal(beats_of(motion, 30.0), beats_of(0.01 * motion - 5.0, 30.0))


def test_dancer_in_steady_movement_at_the_clips_ends_has_no_beat_there() -> None:
    steady = np.cumsum(np.full((500, 14, 2), 3.0), axis=0)
    assert kinematic_beats(steady).shape == (0,)


def test_bad_motion() -> None:
    with pytest.raises(ClipError, match="shape"):
        amplitude(np.zeros((5, 28)))
    with pytest.raises(ClipError, match="not finite"):
        kinematic_beats(np.full((5, 14, 2), np.nan))
    with pytest.raises(ClipError, match="rate"):
        kinematic_beats(np.zeros((5, 14, 2)), rate_hz=0)
