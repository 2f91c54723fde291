"""Musical onsets as LORIS detects them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import gcd

import numpy as np
from numpy.typing import ArrayLike, NDArray

from momu_dist.core.peaks import peak_pick
from momu_dist.errors import ClipError

ONSET_SAMPLE_RATE = 22050
ONSET_HOP = 512


@dataclass(frozen=True)
class OnsetRule:
    """Peak picking on librosa's onset strength, in frames of 512 / 22050 s."""

    pre_max: int
    post_max: int
    pre_avg: int
    post_avg: int
    delta: float = 0.2
    wait: int = 1


# OpenGVLab/LORIS `beats_scores.py`.
LORIS_ONSETS = OnsetRule(pre_max=3, post_max=3, pre_avg=3, post_avg=3)
# L-YeZhu/Beats_Scores (D2M-GAN, CDCD); pre_max is librosa's default there: 0.03 * 22050 // 512 = 1.
D2M_ONSETS = OnsetRule(pre_max=1, post_max=1, pre_avg=1, post_avg=1)


def onset_times(wav: ArrayLike, sample_rate: int, rule: OnsetRule = LORIS_ONSETS) -> NDArray[np.float64]:
    """Onset times in s, ascending, on a grid of 512 / 22050 s (23.2 ms).

    wav: (n,) mono float samples at `sample_rate` Hz. Another rate than 22050 is resampled by scipy's polyphase filter
    (LORIS' loader resamples with librosa). Empty or silent audio gives an empty array.
    Raises ClipError if wav is not (n,) of finite floats or the rate is not positive.
    Source: OpenGVLab/LORIS `beats_scores.py`: librosa.onset.onset_detect at 22050 Hz, no backtracking.
    """
    # Imported here, as in core.audio.mel: a training imports this module for its names.
    from librosa.onset import onset_strength
    from scipy.signal import resample_poly

    samples = np.asarray(wav)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ClipError(
            f"audio has shape {samples.shape} and type {samples.dtype}, expected (n,) floats in [-1, 1]; "
            "mix channels and scale integers first"
        )
    if sample_rate <= 0:
        raise ClipError(
            f"audio's rate is {sample_rate} Hz, expected a positive number; check the file's header"
        )
    if not np.isfinite(samples).all():
        raise ClipError("audio holds values that are not finite, expected none; the file may be damaged")
    if not samples.any():
        return np.zeros(0)
    if sample_rate != ONSET_SAMPLE_RATE:
        common = gcd(ONSET_SAMPLE_RATE, int(sample_rate))
        samples = resample_poly(samples, ONSET_SAMPLE_RATE // common, int(sample_rate) // common)
    strength = onset_strength(y=samples.astype(np.float32), sr=ONSET_SAMPLE_RATE, hop_length=ONSET_HOP)
    if not np.isfinite(strength).all():
        return np.zeros(0)
    strength = strength - strength.min()
    strength /= strength.max() + np.finfo(strength.dtype).tiny
    peaks = peak_pick(strength, **asdict(rule)) if strength.any() else np.zeros(0, np.int64)
    return peaks.astype(np.float64) * ONSET_HOP / ONSET_SAMPLE_RATE
