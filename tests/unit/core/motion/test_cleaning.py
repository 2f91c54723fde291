"""Gap filling and resampling onto the mel grid."""

from __future__ import annotations

import numpy as np
import pytest

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.motion.cleaning import fill_gaps, grid_frames, resample_to_grid
from momu_dist.core.motion.kinematics import amplitude
from momu_dist.errors import ClipError

RATES = [15.0, 25.0, 29.97, 30.0, 50.0, 60.0, 120.0]


def grid_times(n_frames: int) -> np.ndarray:
    return (np.arange(n_frames) + 0.5) * 256 / 16000


@pytest.mark.parametrize(
    ("seconds", "frames"), [(25.0, 1562), (30.0, 1874), (8.192, 512), (0.01, 0), (0.0, 0)]
)
def test_grid_frames_are_mel_frames_made_even(seconds: float, frames: int) -> None:
    assert grid_frames(seconds) == frames


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_bad_duration(seconds: float) -> None:
    with pytest.raises(ClipError, match="duration"):
        grid_frames(seconds)


def test_gaps_are_linear_in_time_and_held_at_the_ends() -> None:
    motion = np.zeros((6, 14, 2))
    conf = np.ones((6, 14))
    motion[:, 3, 0] = [99, 10, -7, 55, 40, 99]
    motion[:, 3, 1] = [0, 1, np.nan, 0, 4, np.inf]
    conf[[0, 3], 3] = 0.0  # 2 and 5 are missing by their coordinates
    filled = fill_gaps(motion, conf)
    np.testing.assert_allclose(filled[:, 3, 0], [10, 10, 20, 30, 40, 40])
    np.testing.assert_allclose(filled[:, 3, 1], [1, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(np.delete(filled, 3, axis=1), np.delete(motion, 3, axis=1))


def test_confidence_that_is_not_a_number_is_missing() -> None:
    motion = np.ones((3, 14, 2))
    motion[1] = 50
    conf = np.ones((3, 14))
    conf[1] = np.nan
    np.testing.assert_array_equal(fill_gaps(motion, conf), np.ones((3, 14, 2)))


def test_joint_never_seen_is_named() -> None:
    conf = np.ones((3, 14))
    conf[:, 10] = 0.01
    with pytest.raises(ClipError, match="RAnkle is missing in all 3 frames"):
        fill_gaps(np.zeros((3, 14, 2)), conf)


def test_no_frames_and_wrong_shapes() -> None:
    with pytest.raises(ClipError, match="no frames"):
        fill_gaps(np.zeros((0, 14, 2)), np.zeros((0, 14)))
    with pytest.raises(ClipError, match="shape"):
        fill_gaps(np.zeros((3, 14, 2)), np.zeros((2, 14)))


@pytest.mark.parametrize("fps", RATES)
def test_rest_stays_and_a_steady_movement_keeps_its_time(fps: float) -> None:
    seconds = np.arange(int(10 * fps)) / fps
    motion = np.stack([np.full_like(seconds, 320.0), 40.0 * seconds], axis=-1)[:, None]
    n_frames = grid_frames(9.9)
    out = resample_to_grid(motion, fps, n_frames)
    inside = grid_times(n_frames) <= seconds[-1]
    np.testing.assert_allclose(out[:, 0, 0], 320.0, atol=1e-9)
    np.testing.assert_allclose(out[inside, 0, 1], 40.0 * grid_times(n_frames)[inside], atol=0.2)


@pytest.mark.parametrize("fps", RATES)
def test_slow_sine_passes_with_its_phase(fps: float) -> None:
    seconds = np.arange(int(10 * fps)) / fps
    out = resample_to_grid(np.sin(2 * np.pi * 2.0 * seconds)[:, None, None], fps, 600)
    wanted = np.sin(2 * np.pi * 2.0 * grid_times(600))
    assert np.abs(out[:, 0, 0] - wanted)[50:-50].max() < 0.07  # at 15 fps 2 Hz loses 6 %


@pytest.mark.parametrize("at", [2, 150, 297])
def test_jump_is_overshot_by_little_and_not_far(at: int) -> None:
    motion = np.zeros((300, 1, 1))
    motion[at:] = 1.0
    out = resample_to_grid(motion, 60.0, 312)[:, 0, 0]
    assert out.min() > -0.06 and out.max() < 1.06
    away = np.abs(grid_times(312) - (at - 0.5) / 60) > 4 / 60
    np.testing.assert_allclose(out[away], out[away].round(), atol=1e-6)


def relative_line(motion: np.ndarray, at_hz: float) -> float:
    """Power of Q at a frequency over the median power within 1 Hz around it."""
    q = amplitude(motion)[10:-10]
    power = np.abs(np.fft.rfft((q - q.mean()) * np.hanning(len(q)))) ** 2
    distance = np.abs(np.fft.rfftfreq(len(q), 1 / MEL_RATE_HZ) - at_hz)
    return float(power[distance < 0.03].mean() / np.median(power[(distance < 1) & (distance > 0.1)]))


@pytest.mark.parametrize("fps", [30.0, 60.0])
def test_white_jitter_has_no_line_at_2_5_hz(fps: float) -> None:
    seconds, lines, linear_lines = 60, [], []
    n_frames = grid_frames(seconds)
    for seed in range(4):
        jitter = np.random.default_rng(seed).normal(size=(int(seconds * fps), 14, 2))
        lines.append(relative_line(resample_to_grid(jitter, fps, n_frames), 2.5))
        at = np.clip(grid_times(n_frames) * fps, 0, len(jitter) - 1)
        columns = [np.interp(at, np.arange(len(jitter)), column) for column in jitter.reshape(-1, 28).T]
        linear_lines.append(relative_line(np.stack(columns, axis=1).reshape(-1, 14, 2), 2.5))
    assert np.mean(lines) < 4
    assert np.mean(linear_lines) > 30  # the control: plain linear interpolation does have one


def broken_track(seed: int, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Like a detector's on fast movers: jitter, wrong detections, a change of place, missing joints at (-1, -1)."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(n_frames)[:, None, None] / 30
    motion = 0.4 * np.sin(seconds * rng.uniform(1, 12, (14, 2)) + rng.uniform(0, 6, (14, 2)))
    motion += 0.004 * rng.normal(size=motion.shape)
    motion += np.where(rng.random((n_frames, 14, 1)) < 0.02, rng.normal(size=motion.shape), 0.0)
    motion[n_frames // 2 :] += 0.8  # another place from here on
    seen = rng.random((n_frames, 14)) > 0.06
    for joint in range(14):
        first, length = rng.integers(0, n_frames), rng.integers(1, 40)
        seen[first : first + length, joint] = False
    seen[n_frames // 3] = True
    motion[~seen] = -1.0
    return motion, np.where(seen, 0.7, 0.0)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_moves_faster_than_the_measurements_around_it(fps: float, seed: int) -> None:
    """The kernel lets a speed through at most 1.21 times, wherever a joint was missing or wrongly detected."""
    motion, conf = broken_track(seed, 240)
    out = resample_to_grid(fill_gaps(motion, conf), fps, grid_frames(240 / fps))
    clean_s = np.linalg.norm(np.diff(out, axis=0), axis=2) * MEL_RATE_HZ
    reach = 4 * max(1.0, fps / MEL_RATE_HZ)
    for joint in range(14):
        at = np.flatnonzero(conf[:, joint])
        between = np.diff(at)
        pair_s = np.linalg.norm(np.diff(motion[at, joint], axis=0), axis=1) / between * fps
        speed_s = np.zeros(239)  # of the measured pair that spans each step between two frames
        speed_s[at[0] : at[-1]] = np.repeat(pair_s, between)
        for i, found_s in enumerate(clean_s[:, joint]):
            middle = (i + 1) / MEL_RATE_HZ * fps
            nearby = speed_s[max(0, int(middle - reach)) : int(middle + reach) + 1]
            # Beyond the last frame the motion is held.
            assert found_s <= 1.22 * nearby.max(initial=0.0) + 1e-9


def test_motion_shorter_than_the_grid_is_held_and_one_frame_is_enough() -> None:
    out = resample_to_grid(np.arange(3.0)[:, None, None], 60.0, 20)
    np.testing.assert_allclose(out[2:, 0, 0], 2.0, atol=1e-12)
    np.testing.assert_allclose(resample_to_grid(np.full((1, 14, 2), 7.0), 60.0, 5), 7.0, atol=1e-12)


@pytest.mark.parametrize("fps", [0.0, -25.0, float("nan")])
def test_bad_rate(fps: float) -> None:
    with pytest.raises(ClipError, match="fps"):
        resample_to_grid(np.zeros((3, 14, 2)), fps, 10)


def test_empty_or_broken_motion() -> None:
    with pytest.raises(ClipError, match="empty"):
        resample_to_grid(np.zeros((0, 14, 2)), 25.0, 10)
    with pytest.raises(ClipError, match="grid frames"):
        resample_to_grid(np.zeros((3, 14, 2)), 25.0, 0)
    with pytest.raises(ClipError, match="not finite"):
        resample_to_grid(np.full((3, 14, 2), np.nan), 25.0, 10)
