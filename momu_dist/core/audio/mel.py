"""Log mel spectrogram at 16 kHz, 62.5 frames a second, equal to Make-An-Audio's."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from momu_dist.core.grid import HOP, MEL_RATE_HZ, N_MELS, SAMPLE_RATE
from momu_dist.errors import ClipError

__all__ = ["HOP", "MEL_FLOOR", "MEL_RATE_HZ", "N_MELS", "SAMPLE_RATE", "log_mel", "log_mel_unchecked"]

N_FFT = 1024
MEL_FLOOR = -5.0
_BLOCK = 64  # frames: 0.25 MB of samples and as much of spectrum
_GROUP_EDGES = (0, 48, 66, N_MELS)  # of bands: under 1.4 kHz, under 3.4 kHz, above
EDGE = (N_FFT - HOP) // 2  # samples reflected at each end, so that n samples give floor(n / HOP) frames


@lru_cache(maxsize=8)
def mel_filterbank(device: torch.device) -> Tensor:
    """The Slaney filterbank (80, 513), 0-8000 Hz, float32 on `device`; cached, so treat it as read-only."""
    # Imported here: every training imports this module for its constants, few compute a spectrogram, and librosa brings
    # numba and scipy.
    from librosa.filters import mel as slaney_mel

    basis = slaney_mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=0, fmax=SAMPLE_RATE / 2)
    return torch.from_numpy(basis).to(device)


@lru_cache(maxsize=8)
def hann_window(device: torch.device) -> Tensor:
    """The periodic Hann window (1024,), float32 on `device`; cached, so treat it as read-only."""
    return torch.hann_window(N_FFT, device=device)


def log_mel(wav: Tensor) -> Tensor:
    """log10 mel (B, 80, T) or (80, T), float32, values >= -5, T = floor(n / 256) frames at 62.5 Hz.

    wav: (B, n) or (n,), 16 kHz mono, clamped to [-1, 1]; the result lies on its device. Frame i is centred on sample
    (i + 0.5) * 256. Zero clips give (0, 80, T).
    Raises ClipError for another number of axes, under 385 samples (the reflected edge) or values not finite.
    Source: Make-An-Audio `preprocess/NAT_mel.py` (reflect 384, Hann 1024, hop 256, center=False, magnitude
    sqrt(re^2 + im^2 + 1e-9), log10 of at least 1e-5).
    """
    if wav.ndim not in (1, 2):
        raise ClipError(
            f"audio has shape {tuple(wav.shape)}, expected (n,) or (B, n) mono samples; mix channels first"
        )
    if wav.shape[-1] <= EDGE:
        raise ClipError(
            f"audio has {wav.shape[-1]} samples, expected {EDGE + 1} or more at {SAMPLE_RATE} Hz; the clip is too short"
        )
    if not torch.isfinite(wav).all():
        raise ClipError("audio holds values that are not finite, expected none; the file may be damaged")
    if wav.numel() == 0:  # torch's FFT refuses an empty batch
        return wav.new_zeros((0, N_MELS, wav.shape[-1] // HOP), dtype=torch.float32)
    clips = wav.reshape(-1, wav.shape[-1]).float()
    if clips.device.type == "cpu" and not (torch.is_grad_enabled() and clips.requires_grad):
        mel = torch.stack([_in_blocks(clip) for clip in clips])
    else:
        mel = log_mel_unchecked(clips)
    return mel if wav.ndim == 2 else mel[0]


def log_mel_unchecked(clips: Tensor) -> Tensor:
    """`log_mel` of clips (B, n), float32, B >= 1, n >= 385, without a look at the values: what a loss can afford.

    Differentiable where |clips| < 1; values that are not finite give NaN.
    """
    spectrum = stft(clips.clamp(-1.0, 1.0))
    magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
    return torch.matmul(mel_filterbank(clips.device), magnitude).clamp(min=10**MEL_FLOOR).log10()


def _in_blocks(clip: Tensor) -> Tensor:
    """`log_mel_unchecked` of one clip (n,) on the CPU, without gradient, in half the time.

    Some frames at a time stay in the processor's cache, in memory that is asked for once; and groups of neighbouring
    bands are multiplied with the bins they have weights for, not with all.
    """
    clip = clip.clamp(-1.0, 1.0)[None, None]
    frames = F.pad(clip, (EDGE, EDGE), mode="reflect")[0, 0].unfold(-1, N_FFT, HOP)
    out = clip.new_empty((len(frames), N_MELS))
    windowed = clip.new_empty((_BLOCK, N_FFT))
    spectrum = torch.empty((_BLOCK, N_FFT // 2 + 1), dtype=torch.complex64)
    magnitude = clip.new_empty((_BLOCK, N_FFT // 2 + 1))
    window = hann_window(clip.device)
    for first in range(0, len(frames), _BLOCK):
        n = min(_BLOCK, len(frames) - first)
        torch.mul(frames[first : first + n], window, out=windowed[:n])
        torch.fft.rfft(windowed[:n], out=spectrum[:n])
        squares = torch.view_as_real(spectrum[:n]).square_()
        torch.add(squares[..., 0], squares[..., 1], out=magnitude[:n])
        magnitude[:n].add_(1e-9).sqrt_()
        for bands, bins, weights in _band_groups():
            out[first : first + n, bands] = magnitude[:n, bins] @ weights
    return out.clamp_(min=10**MEL_FLOOR).log10_().T


@lru_cache(maxsize=1)
def _band_groups() -> list[tuple[slice, slice, Tensor]]:
    """Groups of bands with the bins they have weights for, and those weights (bins, bands)."""
    basis = mel_filterbank(torch.device("cpu"))
    groups = []
    for low, high in pairwise(_GROUP_EDGES):
        used = basis[low:high].any(dim=0).nonzero()
        bins = slice(int(used[0]), int(used[-1]) + 1)
        groups.append((slice(low, high), bins, basis[low:high, bins].T.contiguous()))
    return groups


def stft(clips: Tensor) -> Tensor:
    """Complex spectrum (B, 513, floor(n / 256)) of clips (B, n) in the framing of `log_mel`."""
    padded = F.pad(clips[:, None], (EDGE, EDGE), mode="reflect")[:, 0]
    frames = padded.unfold(-1, N_FFT, HOP) * hann_window(clips.device)
    return torch.fft.rfft(frames).transpose(1, 2)
