"""How far a waveform is from a reference in its spectrum: mel distance and multi-resolution STFT distance.

Conventions: waveforms are (B, n) floats at 16 kHz in [-1, 1], sample i of one beside sample i of the other; each distance
is (B,), 0 where both are equal, larger is worse. Phases do not count, so a vocoder is compared with the music it was given
the mel of. Neither is a listener: use them to compare vocoders on the same clips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from momu_dist.core.audio.mel import log_mel
from momu_dist.errors import DataError

STFT_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""Samples of transform, hop and window (Parallel WaveGAN's)."""

SILENT_RMS = 1e-3  # -60 dB of full scale
MAGNITUDE_FLOOR = 1e-4
MIN_SAMPLES = 2048


def validate(reference: Tensor, wav: Tensor) -> None:
    """Raise DataError unless both are (B, n) floats of one shape, n >= 2048, all finite."""
    if reference.ndim != 2 or reference.shape != wav.shape or reference.shape[1] < MIN_SAMPLES:
        raise DataError(
            f"the waveforms have shapes {tuple(reference.shape)} and {tuple(wav.shape)}, expected (B, n) twice with "
            f"n >= {MIN_SAMPLES} samples at 16 kHz; cut both to the same length."
        )
    if not (reference.is_floating_point() and wav.is_floating_point()):
        raise DataError(
            f"the waveforms are {reference.dtype} and {wav.dtype}, expected floats in [-1, 1]; scale integers first."
        )
    if not (torch.isfinite(reference).all() and torch.isfinite(wav).all()):
        raise DataError("a waveform holds values that are not finite, expected none; what made it is broken.")


def mel_distance(reference: Tensor, wav: Tensor) -> Tensor:
    """Mean absolute difference of the log10 mels (B,), over 80 bands and all frames; .1 is 2 dB.

    Raises DataError as `validate`. Zero samples give (0,). Mels end at -5 (1e-5), so silence against silence is 0.
    """
    validate(reference, wav)
    if not len(reference):
        return reference.new_zeros(0)
    return (log_mel(reference) - log_mel(wav)).abs().mean((1, 2))


def stft_distance(reference: Tensor, wav: Tensor) -> Tensor:
    """Multi-resolution STFT distance (B,): mean over `STFT_RESOLUTIONS` of spectral convergence + log magnitude distance.

    Spectral convergence: ||R - W|| / ||R|| over all magnitudes of a sample; log magnitude distance: mean |ln R - ln W|.
    Raises DataError as `validate`. Zero samples give (0,).
    Source: Parallel WaveGAN (Yamamoto et al., 2020), Eq. 4-7. Where we differ: magnitudes below 1e-4 are raised to it, so
    that digital silence, which has no logarithm, is finite; and the convergence of a reference under -60 dB is relative to
    -60 dB, so that one silent clip does not outweigh all others.
    """
    validate(reference, wav)
    if not len(reference):
        return reference.new_zeros(0)
    total = torch.zeros(len(reference), device=reference.device)
    for n_fft, hop, window in STFT_RESOLUTIONS:
        real, made = (_magnitudes(clips, n_fft, hop, window) for clips in (reference, wav))
        convergence = (real - made).flatten(1).norm(dim=1) / _loudness(real, window)
        total = total + convergence + (real.log() - made.log()).abs().mean((1, 2))
    return total / len(STFT_RESOLUTIONS)


def _loudness(magnitudes: Tensor, window: int) -> Tensor:
    """Norm (B,) of the magnitudes of a reference, at least that of white noise at SILENT_RMS."""
    energy = float(torch.hann_window(window).square().sum())
    least = SILENT_RMS * (energy * magnitudes[0].numel()) ** 0.5
    return magnitudes.flatten(1).norm(dim=1).clamp_min(least)


def _magnitudes(clips: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    """(B, n_fft / 2 + 1, 1 + n // hop), at least MAGNITUDE_FLOOR."""
    edge = n_fft // 2
    padded = F.pad(clips.float()[:, None], (edge, edge), mode="reflect")[:, 0]
    shape = torch.hann_window(window, device=clips.device)
    spectrum = torch.stft(padded, n_fft, hop, window, shape, center=False, return_complex=True)
    return spectrum.abs().clamp_min(MAGNITUDE_FLOOR)
