"""One person out of several: made-up walkers in Body-25, in any order, with gaps, crossings and departures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momu_dist.core.motion.tracking import Switch, track_person

POSE = np.random.default_rng(7).uniform([-25, -90], [25, 90], (25, 2))  # a body of about 190 px


def walker(x_px: np.ndarray, size: float = 1.0, y_px: float = 300.0, seed: int = 0) -> np.ndarray:
    """(T, 25, 3): a body whose middle is at x_px, with swinging limbs and 1 px of noise."""
    rng = np.random.default_rng(seed)
    swing = 8 * np.sin(np.arange(len(x_px)) / 5 + seed)[:, None] * rng.normal(size=25)
    xy = size * POSE + np.stack([x_px[:, None] + size * swing, np.full((len(x_px), 25), y_px)], axis=-1)
    return np.concatenate([xy + rng.normal(size=xy.shape), np.full((len(x_px), 25, 1), 0.9)], axis=-1)


def scene(*people: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Frames of people in shuffled order; a person whose frame is all 0 is not there."""
    rng = np.random.default_rng(seed)
    frames = []
    for t in range(len(people[0])):
        there = [person[t] for person in people if person[t].any()]
        frames.append(np.array([there[i] for i in rng.permutation(len(there))]).reshape(-1, 25, 3))
    return frames


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    speed_px_s=st.floats(60, 400),
    fps=st.sampled_from([15.0, 25.0, 30.0, 60.0]),
    size=st.floats(0.6, 0.95),
)
def test_two_who_cross_in_shuffled_order_keep_their_identity(
    seed: int, speed_px_s: float, fps: float, size: float
) -> None:
    n = int(4 * fps)
    way = (np.arange(n) - n / 2) / fps * speed_px_s
    near, far = walker(500 + way, seed=seed), walker(500 - way, size, seed=seed + 1)
    track = track_person(scene(near, far, seed=seed), fps)
    np.testing.assert_array_equal(track.keypoints, near)
    assert track.switches == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), start=st.integers(1, 80), length_s=st.floats(0.03, 0.7))
def test_a_gap_stays_a_gap_and_the_other_one_is_not_taken(seed: int, start: int, length_s: float) -> None:
    fps, n = 30.0, 120
    stop = min(n, start + max(1, int(length_s * fps)))
    dancer = walker(np.linspace(300, 420, n), seed=seed)
    other = walker(np.full(n, 800.0), 0.8, seed=seed + 1)
    hidden = dancer.copy()
    hidden[start:stop] = 0
    track = track_person(scene(hidden, other, seed=seed), fps)
    np.testing.assert_array_equal(track.keypoints, hidden)
    assert track.switches == ()


def test_hidden_behind_the_other_in_a_crossing() -> None:
    n, fps = 120, 30.0
    way = (np.arange(n) - n / 2) / fps * 150
    near, far = walker(500 + way), walker(500 - way, 0.8, seed=1)
    near[56:64] = 0  # only the one in front is detected, on the very spot
    track = track_person(scene(near, far), fps)
    np.testing.assert_array_equal(track.keypoints, near)
    assert track.switches == ()


def test_who_leaves_is_followed_by_the_other_and_the_frame_is_said() -> None:
    dancer, other = walker(np.linspace(500, 900, 150)), walker(np.full(150, 400.0), 0.8, seed=1)
    dancer[50:] = 0
    track = track_person(scene(dancer, other), 30.0)
    np.testing.assert_array_equal(track.keypoints[:50], dancer[:50])
    np.testing.assert_array_equal(track.keypoints[50:], other[50:])
    (switch,) = track.switches
    assert (switch.frame, switch.last) == (50, 49) and switch.sizes > 1


def test_after_everybody_was_gone_the_nearest_is_taken() -> None:
    dancer, other = walker(np.full(200, 500.0)), walker(np.full(200, 800.0), 0.95, seed=1)
    dancer[60:140], other[60:140] = 0, 0
    track = track_person(scene(dancer, other), 30.0)
    np.testing.assert_array_equal(track.keypoints, dancer)
    assert track.switches == (), "he came back where he was"


def test_whoever_is_missing_in_the_last_moment_is_not_replaced() -> None:
    dancer, other = walker(np.full(90, 500.0)), walker(np.full(90, 800.0), 0.8, seed=1)
    dancer[80:] = 0
    track = track_person(scene(dancer, other), 30.0)
    np.testing.assert_array_equal(track.keypoints, dancer)
    assert track.switches == ()


def test_a_jump_is_a_switch() -> None:
    x_px = np.full(100, 300.0)
    x_px[40:] = 900
    dancer = walker(x_px)
    track = track_person(scene(dancer), 25.0)
    np.testing.assert_array_equal(track.keypoints, dancer)
    (switch,) = track.switches
    assert isinstance(switch, Switch) and (switch.frame, switch.last) == (40, 39)
    assert switch.sizes == pytest.approx(600 / 190, rel=0.2)


def test_the_largest_at_the_start_is_taken_though_another_comes_nearer_to_the_camera() -> None:
    n = 100
    dancer = walker(np.full(n, 300.0))
    late = walker(np.full(n, 700.0), 2.0, seed=1)
    late[:30] = 0
    small = walker(np.full(n, 500.0), 0.5, seed=2)
    track = track_person(scene(small, late, dancer), 30.0)
    np.testing.assert_array_equal(track.keypoints, dancer)


def test_the_largest_is_taken_though_the_first_frames_miss_him() -> None:
    dancer, bystander = walker(np.full(90, 300.0)), walker(np.full(90, 700.0), 0.4, seed=1)
    dancer[:5] = 0
    track = track_person(scene(dancer, bystander), 30.0)
    np.testing.assert_array_equal(track.keypoints, dancer)
    assert track.switches == ()


def test_a_flicker_of_the_detector_is_nobody() -> None:
    dancer, ghost = walker(np.full(80, 300.0)), walker(np.full(80, 900.0), 1.5, seed=1)
    ghost[1:40], ghost[42:] = 0, 0  # in the first frame and for two frames while the dancer is hidden
    dancer[38:44] = 0
    track = track_person(scene(dancer, ghost), 30.0)
    np.testing.assert_array_equal(track.keypoints, dancer)
    assert track.switches == ()


def test_of_two_halves_of_one_person_the_fuller_is_taken() -> None:
    dancer = walker(np.linspace(300, 350, 60))
    frames = scene(dancer)
    half = dancer[30].copy()
    half[:18] = 0
    whole = dancer[30].copy()
    whole[18:] = 0
    frames[30] = np.array([half, whole])
    np.testing.assert_array_equal(track_person(frames, 30.0).keypoints[30], whole)


def test_nobody_and_nothing() -> None:
    track = track_person([np.zeros((0, 25, 3))] * 5, 30.0)
    assert track.keypoints.shape == (5, 25, 3) and not track.keypoints.any() and track.switches == ()
    assert len(track_person([], 30.0).keypoints) == 0
    unseen = track_person([np.zeros((2, 25, 3))] * 3, 30.0)
    assert not unseen.keypoints.any()
