"""Onset detection on clicks of known times."""

from __future__ import annotations

import numpy as np
import pytest

from momu_dist.core.audio.onsets import D2M_ONSETS, onset_times
from momu_dist.errors import ClipError

CLICKS_S = np.array([0.5, 1.1, 1.9, 2.4, 3.3])


def clicks(sample_rate: int, seconds: float = 4.0) -> np.ndarray:
    wav = np.zeros(int(seconds * sample_rate))
    for at in CLICKS_S:
        burst = np.arange(int(0.05 * sample_rate)) / sample_rate
        start = int(at * sample_rate)
        wav[start : start + len(burst)] += np.exp(-60 * burst) * np.sin(2 * np.pi * 1000 * burst)
    return wav


@pytest.mark.parametrize("sample_rate", [16000, 22050, 44100])
def test_clicks_are_found_at_any_rate(sample_rate: int) -> None:
    times = onset_times(clicks(sample_rate), sample_rate)
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, CLICKS_S, atol=0.04)


def test_times_lie_on_the_hop_grid_and_loudness_does_not_matter() -> None:
    wav = clicks(22050)
    frames = onset_times(wav, 22050) * 22050 / 512
    np.testing.assert_allclose(frames, frames.round(), atol=1e-6)
    np.testing.assert_array_equal(onset_times(0.05 * wav, 22050), onset_times(wav, 22050))
    assert len(onset_times(wav, 22050, D2M_ONSETS)) >= len(CLICKS_S)


@pytest.mark.parametrize("n", [0, 10, 40000])
def test_empty_and_silent_audio_has_no_onsets(n: int) -> None:
    assert onset_times(np.zeros(n), 16000).shape == (0,)


def test_errors() -> None:
    with pytest.raises(ClipError, match="floats"):
        onset_times(np.zeros(5000, dtype=np.int16), 22050)
    with pytest.raises(ClipError, match="mono|mix channels"):
        onset_times(np.zeros((2, 5000)), 22050)
    with pytest.raises(ClipError, match="rate"):
        onset_times(np.zeros(5000), 0)
    with pytest.raises(ClipError, match="not finite"):
        onset_times(np.full(5000, np.inf), 22050)
