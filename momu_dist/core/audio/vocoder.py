"""From log mel to a waveform: the contract of vocoders, and Griffin-Lim, which needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from momu_dist.core.audio.mel import EDGE, HOP, N_FFT, N_MELS, hann_window, mel_filterbank, stft
from momu_dist.core.seeds import numpy_rng
from momu_dist.errors import DataError

_MOMENTUM = 0.99
# Mean |log10 mel| error of a synthetic piece after the inverse alone and after 32 iterations: clamped pseudo-inverse
# .081 and .182, 5 updates .020 and .133, 10 updates .016 and .132, 100 updates .005 and .132 at ten times the cost.
_NNLS_UPDATES = 10


class Vocoder(Protocol):
    """Turns log10 mel (B, 80, T) into audio (B, 256 * T) at 16 kHz; sample b depends on its mel and seeds[b] alone."""

    @property
    def name(self) -> str:
        """What is written beside every file it made."""
        ...

    def __call__(self, log10_mel: Tensor, seeds: Sequence[int]) -> Tensor: ...


def check_mel(log10_mel: Tensor, seeds: Sequence[int]) -> None:
    """Raise DataError unless this is a batch that every vocoder takes: (B, 80, T >= 2), finite, B seeds."""
    if log10_mel.ndim != 3 or log10_mel.shape[1] != N_MELS or log10_mel.shape[2] < 2:
        raise DataError(f"mel has shape {tuple(log10_mel.shape)}, expected (B, {N_MELS}, T) with T >= 2")
    if len(seeds) != len(log10_mel):
        raise DataError(f"{len(seeds)} seeds were given for {len(log10_mel)} mels, expected one for each")
    if not torch.isfinite(log10_mel).all():
        raise DataError("mel holds values that are not finite, expected none; the model's output is broken")


class GriffinLim:
    """Audio whose spectrum has the mel's magnitudes and phases found by fast Griffin-Lim (momentum .99).

    Sample i of the output is sample i of the audio that `log_mel` would give this mel for: the framing is the same.
    The samples of a batch are made one by one, so a sample is bit-equal alone or in a batch.
    """

    def __init__(self, n_iter: int = 32) -> None:
        if n_iter < 1:
            raise DataError(
                f"Griffin-Lim was given {n_iter} iterations, expected at least 1; its default is 32"
            )
        self.n_iter = n_iter

    @property
    def name(self) -> str:
        return f"griffin-lim-{self.n_iter}"

    def __call__(self, log10_mel: Tensor, seeds: Sequence[int]) -> Tensor:
        """Audio (B, 256 * T), float32, 16 kHz, not clamped.

        log10_mel: (B, 80, T) at 62.5 Hz, T >= 2; seeds: B integers that choose the first phases.
        Zero samples give (0, 256 * T). Raises DataError for another shape, another number of seeds, or values that
        are not finite.
        """
        check_mel(log10_mel, seeds)
        with torch.no_grad():
            clips = [self._one(mel, seed) for mel, seed in zip(log10_mel.float(), seeds, strict=True)]
        return torch.stack(clips) if clips else log10_mel.new_zeros((0, HOP * log10_mel.shape[2]))

    def _one(self, log10_mel: Tensor, seed: int) -> Tensor:
        magnitude = magnitudes(log10_mel[None])
        n_frames = magnitude.shape[2]
        draws = numpy_rng(seed, "griffin-lim").random((n_frames, magnitude.shape[1]), dtype="float32")
        phase = torch.from_numpy(draws).to(magnitude.device).T[None] * (2 * torch.pi)
        estimate = torch.polar(magnitude, phase)
        previous = torch.zeros_like(estimate)
        for _ in range(self.n_iter):
            rebuilt = stft(_inverse_stft(estimate))
            ahead = rebuilt + _MOMENTUM * (rebuilt - previous)
            previous = rebuilt
            estimate = ahead * (magnitude / ahead.abs().clamp(min=1e-12))
        return _inverse_stft(estimate)[0]


def magnitudes(log10_mel: Tensor) -> Tensor:
    """Non-negative magnitudes (B, 513, T) whose mel is 10 ** log10_mel (B, 80, T) as nearly as 80 bands can tell.

    Starts from the clamped pseudo-inverse and applies multiplicative non-negative least-squares updates.
    """
    mel = 10.0**log10_mel
    basis = mel_filterbank(mel.device)
    estimate = torch.matmul(_pseudo_inverse(mel.device), mel).clamp(min=1e-7)
    target = torch.matmul(basis.T, mel)
    gram = basis.T @ basis
    for _ in range(_NNLS_UPDATES):
        estimate = estimate * (target / torch.matmul(gram, estimate).clamp(min=1e-12))
    return estimate


@lru_cache(maxsize=8)
def _pseudo_inverse(device: torch.device) -> Tensor:
    return torch.linalg.pinv(mel_filterbank(device))


def _inverse_stft(spectrum: Tensor) -> Tensor:
    """Least-squares audio (B, 256 * T) of a spectrum (B, 513, T) in the framing of `log_mel`."""
    window = hann_window(spectrum.device)
    frames = torch.fft.irfft(spectrum.transpose(1, 2), n=N_FFT) * window
    n_frames = frames.shape[1]
    weight = window.square().expand(1, n_frames, N_FFT)
    audio = _overlap_add(frames) / _overlap_add(weight).clamp(min=1e-8)
    return audio[:, EDGE : EDGE + HOP * n_frames]


def _overlap_add(frames: Tensor) -> Tensor:
    """Sum (B, 256 * (T - 1) + 1024) of frames (B, T, 1024) laid 256 samples apart."""
    per_frame = N_FFT // HOP
    batch, n_frames, _ = frames.shape
    pieces = frames.reshape(batch, n_frames, per_frame, HOP)
    total = frames.new_zeros((batch, n_frames + per_frame - 1, HOP))
    for piece in range(per_frame):
        total[:, piece : piece + n_frames] += pieces[:, :, piece]
    return total.reshape(batch, -1)
