"""Discriminators of waveforms: over periods (HiFi-GAN) and over spectrograms of several resolutions (UnivNet, BigVGAN).

Source: HiFi-GAN (Kong et al., 2020), UnivNet (Jang et al., 2021) as in NVIDIA/BigVGAN `discriminators.py`; same parameter
names (torch loads its `weight_g`, `weight_v` under the names of the weight norm of today), one width for both kinds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""Samples of transform, hop and window of each spectrogram."""

_SLOPE = 0.1

Judgement = list[Tensor]
"""What one discriminator makes of a batch: each layer's features, the logits last; all (B, C, *positions)."""


class WaveDiscriminators(nn.Module):
    """All discriminators of a waveform behind one call, so that they train as one network.

    `ch` is the width of the first layers; 32 is the reference's (41,105,770 + 280,902 parameters).
    """

    def __init__(self, ch: int = 32) -> None:
        super().__init__()
        self.mpd = MultiPeriodDiscriminator(ch)
        self.mrd = MultiResolutionDiscriminator(ch)

    def forward(self, wav: Tensor) -> list[Judgement]:
        """Judgements of `wav` (B, n), n >= 1024, by each period, then by each resolution."""
        return [*self.mpd(wav), *self.mrd(wav)]


class MultiPeriodDiscriminator(nn.Module):
    """One discriminator a period of `PERIODS`."""

    def __init__(self, ch: int = 32) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(PeriodDiscriminator(period, ch) for period in PERIODS)

    def forward(self, wav: Tensor) -> list[Judgement]:
        """Judgements of `wav` (B, n), one a period."""
        return [discriminator(wav) for discriminator in self.discriminators]


class MultiResolutionDiscriminator(nn.Module):
    """One discriminator a spectrogram of `RESOLUTIONS`."""

    def __init__(self, ch: int = 32) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(ResolutionDiscriminator(*sizes, ch=ch) for sizes in RESOLUTIONS)

    def forward(self, wav: Tensor) -> list[Judgement]:
        """Judgements of `wav` (B, n), one a resolution."""
        return [discriminator(wav) for discriminator in self.discriminators]


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample: the waveform folded into (n / period, period), convolved along the first axis."""

    def __init__(self, period: int, ch: int = 32) -> None:
        super().__init__()
        self.period = period
        widths = (1, ch, 4 * ch, 16 * ch, 32 * ch, 32 * ch)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(before, width, (5, 1), stride=(stride, 1), padding=(2, 0)))
            for before, width, stride in zip(widths[:-1], widths[1:], (3, 3, 3, 3, 1), strict=True)
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Tensor) -> Judgement:
        """Judgement of `wav` (B, n); its end is reflected up to a multiple of the period."""
        x = F.pad(wav[:, None], (0, -wav.shape[1] % self.period), mode="reflect")
        return _features(self.convs, self.conv_post, x.reshape(len(wav), 1, -1, self.period))


class ResolutionDiscriminator(nn.Module):
    """Looks at the magnitudes of one spectrogram as a picture (frequency x time)."""

    def __init__(self, n_fft: int, hop: int, window: int, ch: int = 32) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        # Rectangular, as in the reference, which gives torch's transform no window.
        self.register_buffer("window", torch.ones(window), persistent=False)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(before, ch, kernel, stride=(1, stride), padding=(1, kernel[1] // 2)))
            for before, kernel, stride in (
                (1, (3, 9), 1),
                (ch, (3, 9), 2),
                (ch, (3, 9), 2),
                (ch, (3, 9), 2),
                (ch, (3, 3), 1),
            )
        )
        self.conv_post = weight_norm(nn.Conv2d(ch, 1, (3, 3), padding=1))

    def forward(self, wav: Tensor) -> Judgement:
        """Judgement of `wav` (B, n), n above half of what the transform exceeds its hop by."""
        return _features(self.convs, self.conv_post, self.spectrogram(wav)[:, None])

    def spectrogram(self, wav: Tensor) -> Tensor:
        """Magnitudes (B, n_fft / 2 + 1, n / hop), float32, of `wav` (B, n) with reflected edges."""
        edge = (self.n_fft - self.hop) // 2
        padded = F.pad(wav[:, None].float(), (edge, edge), mode="reflect")[:, 0]
        assert isinstance(self.window, Tensor)
        spectrum = torch.stft(
            padded,
            self.n_fft,
            self.hop,
            len(self.window),
            self.window,
            center=False,
            return_complex=True,
        )
        return spectrum.abs()


def _features(convs: nn.ModuleList, post: nn.Module, x: Tensor) -> Judgement:
    found = []
    for conv in convs:
        x = F.leaky_relu(conv(x), _SLOPE)
        found.append(x)
    return [*found, post(x)]
