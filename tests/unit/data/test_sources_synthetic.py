"""The synthetic set: seeded, honest about its times, and learnable by the rulers that will judge it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from momu_dist.core.audio.onsets import onset_times
from momu_dist.core.metrics.beats import match_beats
from momu_dist.core.motion.bones import limb_lengths
from momu_dist.core.motion.cleaning import resample_to_grid
from momu_dist.core.motion.kinematics import kinematic_beats
from momu_dist.data.sources import make_source
from momu_dist.data.sources.synthetic.source import Synthetic, SyntheticClip
from momu_dist.data.sources.synthetic.styles import STYLES
from momu_dist.errors import DataError

TOLERANCE_S = 0.07


@pytest.fixture(scope="module")
def clips() -> list[SyntheticClip]:
    source = Synthetic(seed=3)
    return [source.clip(index) for index in range(20)]


@pytest.fixture(scope="module")
def moves(clips: list[SyntheticClip]) -> list[np.ndarray]:
    return [kinematic_beats(resample_to_grid(clip.record.motion_px, 60.0, 512)) for clip in clips]


@pytest.fixture(scope="module")
def onsets(clips: list[SyntheticClip]) -> list[np.ndarray]:
    return [onset_times(clip.record.audio, 16000) for clip in clips]


def f1(found_s: np.ndarray, true_s: np.ndarray) -> float:
    hits = match_beats(true_s, found_s, TOLERANCE_S)
    return 2 * hits / max(len(found_s) + len(true_s), 1)


def of_others(times: list[np.ndarray]) -> float:
    n = len(times)
    return float(np.mean([f1(times[i], times[j]) for i in range(n) for j in range(n) if i != j]))


def test_kinematic_beats_find_the_true_moves(clips: list[SyntheticClip], moves: list[np.ndarray]) -> None:
    assert np.mean([f1(found, clip.moves_s) for found, clip in zip(moves, clips, strict=True)]) > 0.9


def test_onsets_find_the_true_sounds(clips: list[SyntheticClip], onsets: list[np.ndarray]) -> None:
    assert np.mean([f1(found, clip.hits_s) for found, clip in zip(onsets, clips, strict=True)]) > 0.95


def test_a_wrong_partner_scores_low_in_both_directions(
    moves: list[np.ndarray], onsets: list[np.ndarray]
) -> None:
    assert of_others(moves) < 0.4
    assert of_others(onsets) < 0.4


def test_moves_follow_the_rule_of_the_style(clips: list[SyntheticClip]) -> None:
    seen = set()
    for clip in clips:
        style = next(style for style in STYLES if style.name == clip.style)
        seen.add(clip.style)
        lead_s = style.lead_beats * 60 / clip.bpm
        inside = clip.moves_s[(clip.moves_s > 0.1) & (clip.moves_s < 8.192 - lead_s - 0.1)]
        nearest = np.abs(inside[:, None] + lead_s - clip.hits_s[None]).min(axis=1)
        assert nearest.max() < 0.03
        assert 80 <= clip.bpm <= 150
    assert seen == {style.name for style in STYLES}


def test_a_clip_is_a_function_of_seed_and_index_alone() -> None:
    few, many = Synthetic(n_clips=3, seed=1), Synthetic(n_clips=100, seed=1)
    one, two = few.load(few.refs()[2]), many.load(many.refs()[2])
    np.testing.assert_array_equal(one.audio, two.audio)
    np.testing.assert_array_equal(one.motion_px, two.motion_px)
    assert one.clip_id == two.clip_id
    assert not np.array_equal(one.motion_px, Synthetic(seed=2).clip(2).record.motion_px)


def test_limbs_keep_their_length_and_the_dancer_stays_in_the_frame() -> None:
    for index in range(8):
        motion = Synthetic(jitter_px=0.0).clip(index).record.motion_px
        lengths = limb_lengths(motion)
        np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), rtol=1e-4)
        assert motion.min() > 0 and motion[..., 0].max() < 500 and motion[..., 1].max() < 400
        assert 150 < np.ptp(motion[0, :, 1]) < 250


def test_record_is_what_a_source_promises(clips: list[SyntheticClip]) -> None:
    record = clips[0].record
    assert record.audio.dtype == np.float32 and record.audio.shape == (131072,)
    assert 0.7 < np.abs(record.audio).max() <= 0.8001
    assert record.motion_px.shape == (492, 14, 2) and record.conf.shape == (492, 14)
    assert record.beats_s is not None
    np.testing.assert_allclose(np.diff(record.beats_s), 60 / clips[0].bpm, rtol=1e-4)


def test_impossible_options_and_unknown_sources_are_sentences() -> None:
    with pytest.raises(DataError, match="at least one clip"):
        make_source("synthetic", n_clips=0)
    with pytest.raises(DataError, match="no option 'n_clip'; it takes n_clips, clip_s, seed, jitter_px"):
        make_source("synthetic", n_clip=3)
    with pytest.raises(DataError, match="known sources: dance_with_melody,.* synthetic"):
        make_source("sintetic")


@pytest.mark.parametrize(
    "options",
    [
        {"n_clips": "many"},
        {"n_clips": 2.5},
        {"n_clips": True},
        {"clip_s": float("nan")},
        {"clip_s": "long"},
        {"seed": 0.5},
        {"root": "here"},
        {"name": "other"},
    ],
)
def test_options_of_a_wrong_type_are_sentences(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="synthetic"):
        make_source("synthetic", None, **options)
