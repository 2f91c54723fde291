"""Features: the row of a good record, and a reason for each kind of bad one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

import momu_dist.data.features as features
from momu_dist.core.audio.mel import log_mel
from momu_dist.core.motion.kinematics import normalised_amplitude
from momu_dist.data.record import Record
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.errors import ClipError

GOOD = Synthetic(n_clips=1, clip_s=4.0).clip(0).record


def nan_joint(record: Record) -> Record:
    motion = record.motion_px.copy()
    motion[:, 4] = np.nan
    return replace(record, motion_px=motion)


def nan_audio(record: Record) -> Record:
    audio = record.audio.copy()
    audio[7] = np.nan
    return replace(record, audio=audio)


BAD: list[tuple[Callable[[Record], Record], str]] = [
    (lambda r: replace(r, audio=r.audio[:30000]), "durations disagree.*audio cut short"),
    (lambda r: replace(r, fps=25.0), "durations disagree"),
    (nan_joint, "RWrist is missing in all"),
    (lambda r: replace(r, conf=np.zeros_like(r.conf)), "missing in all"),
    (nan_audio, "not finite in 1 of"),
    (lambda r: replace(r, motion_px=r.motion_px[:0], conf=r.conf[:0]), "zero length"),
    (lambda r: replace(r, audio=r.audio[:0]), "zero length"),
    (lambda r: replace(r, fps=0.0), "fps"),
    (lambda r: replace(r, fps=float("nan")), "fps"),
    (lambda r: replace(r, motion_px=r.motion_px[:, :13]), "shapes"),
    (lambda r: replace(r, motion_px=r.motion_px[:6], conf=r.conf[:6], audio=r.audio[:1600]), "too short"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD)
def test_a_bad_clip_is_refused_with_its_reason(spoil: Callable[[Record], Record], reason: str) -> None:
    with pytest.raises(ClipError, match=reason):
        features.extract(spoil(GOOD))


def test_a_row_lies_on_the_mel_grid_with_an_even_length() -> None:
    n_frames = 4 * 16000 // 256 // 2 * 2
    row = features.extract(GOOD)
    assert row.length == n_frames and n_frames % 2 == 0
    assert row.motion.shape == (n_frames, 14, 2) and row.conf.shape == (n_frames, 14)
    np.testing.assert_array_equal(row.mel, log_mel(torch.from_numpy(GOOD.audio[: n_frames * 256])).numpy())
    assert 0.99 < row.amplitude.max() <= 1.0 and row.amplitude.min() >= 0
    assert GOOD.beats_s is not None
    np.testing.assert_array_equal(row.beats_s, GOOD.beats_s[GOOD.beats_s < n_frames / 62.5])


def test_silence_is_fine() -> None:
    row = features.extract(replace(GOOD, audio=np.zeros_like(GOOD.audio)))
    assert row.onsets_s.size == 0
    assert (row.mel == -5).all()


def test_filled_gaps_have_no_confidence_and_continue_the_motion() -> None:
    motion, conf = GOOD.motion_px.copy(), GOOD.conf.copy()
    motion[60:66, 4], conf[60:66, 4] = 0.0, 0.0
    motion[90:93, 7] = np.nan
    row = features.extract(replace(GOOD, motion_px=motion, conf=conf))
    at = np.abs((np.arange(row.length) + 0.5) / 62.5 - 62.5 / 60).argmin()
    assert row.conf[at, 4] == 0 and row.conf[at, 5] > 0
    assert np.isfinite(row.motion).all()
    assert np.abs(row.motion[:, 4]).min() > 20  # the zeros of the missing frames are gone


def test_motion_at_another_rate_gives_the_same_place_on_the_grid() -> None:
    def at(fps: float) -> np.ndarray:
        time_s = np.arange(round(4 * fps)) / fps
        motion = np.zeros((len(time_s), 14, 2)) + 100 + 30 * np.sin(2 * np.pi * time_s)[:, None, None]
        motion += np.arange(14)[None, :, None]
        record = replace(GOOD, motion_px=motion, conf=np.ones(motion.shape[:2]), fps=fps)
        return features.extract(record).motion[20:-20]

    np.testing.assert_allclose(at(30.0), at(60.0), atol=0.3)


def test_the_fingerprint_changes_with_any_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = features.feature_fingerprint()
    assert features.feature_fingerprint(features.AmplitudeOptions(bins=12)) != before
    monkeypatch.setattr(features, "MIN_CONF", 0.2)
    assert features.feature_fingerprint() != before


def test_the_amplitude_is_read_as_the_options_say() -> None:
    literal = features.extract(GOOD, features.AmplitudeOptions(12, "literal", "atan"))
    expected = normalised_amplitude(literal.motion, 12, "literal", "atan")
    np.testing.assert_allclose(literal.amplitude, expected, rtol=1e-6)
    assert np.abs(literal.amplitude - features.extract(GOOD).amplitude).max() > 0.01
