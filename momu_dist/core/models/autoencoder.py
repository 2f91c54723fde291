"""1-D convolutional VAE for mel spectrograms and for motion: the paper's Table 8.

Source: the autoencoder of Make-An-Audio-2 (ldm/models/autoencoder1d.py), whose parameter names and shapes it keeps:
212,958,212 parameters for 80 mel bands, 212,758,480 for 28 motion channels. Where we differ: padded batches. With
`lengths`, convolutions, norm statistics and attention see exactly what each sample alone would show them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momu_dist.core.models.masked import (
    MaskedConv1d,
    MaskedGroupNorm,
    attend,
    padding_mask,
    zero_outside,
)
from momu_dist.core.ranges import Checked, Count, Decay
from momu_dist.errors import ConfigError, DataError

_NORM_GROUPS = 32
_DECODER_KERNEL = 3  # the reference's decoder does not hand its kernel size to its residual blocks
_LOGVAR_RANGE = (-30.0, 20.0)
LAST_WEIGHT = (
    "decoder.conv_out.weight"  # the parameter through which every gradient of a reconstruction passes
)


@dataclass(frozen=True)
class AutoencoderConfig(Checked):
    """Shape of the VAE; the defaults are the paper's (Table 8).

    `attn_layers` and `down_layers` are indices of levels (one level per entry of `ch_mult`): the paper's index 3 lies
    beyond the last level, so only the attention of the middle block exists (that gives its 213 M parameters).
    """

    in_channels: Count = 80
    z_channels: Count = 20
    ch: Count = 384
    ch_mult: tuple[Count, ...] = (1, 2, 4)
    num_res_blocks: Count = 2
    kernel_size: Count = 5
    attn_layers: tuple[int, ...] = (3,)
    down_layers: tuple[int, ...] = (0,)
    dropout: Decay = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ch_mult or self.ch % _NORM_GROUPS:
            raise ConfigError(
                f"The autoencoder got ch={self.ch} and ch_mult={self.ch_mult}, but it needs at least one level and a "
                f"width divisible by the {_NORM_GROUPS} norm groups; choose ch as a multiple of {_NORM_GROUPS}."
            )
        if self.kernel_size % 2 == 0:
            raise ConfigError(
                f"The autoencoder got kernel_size={self.kernel_size}, but only odd kernels keep the length; use 3 or 5."
            )
        if any(not 0 <= level < len(self.ch_mult) - 1 for level in self.down_layers):
            raise ConfigError(
                f"The autoencoder got down_layers={self.down_layers}, but only levels 0 to {len(self.ch_mult) - 2} of "
                f"ch_mult={self.ch_mult} can be followed by a stride; choose among them."
            )

    @property
    def downsampling(self) -> int:
        """Frames per latent."""
        return 2 ** len(set(self.down_layers))


class _ResnetBlock(nn.Module):
    """Norm, SiLU, conv, twice, around a residual (1x1 convolution where the width changes)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.norm1 = MaskedGroupNorm(_NORM_GROUPS, in_channels, eps=1e-6)
        self.conv1 = MaskedConv1d(in_channels, out_channels, kernel_size, padding=padding)
        self.norm2 = MaskedGroupNorm(_NORM_GROUPS, out_channels, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = MaskedConv1d(out_channels, out_channels, kernel_size, padding=padding)
        self.nin_shortcut = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, mask)), mask)
        h = self.conv2(self.dropout(F.silu(self.norm2(h, mask))), mask)
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class _AttnBlock(nn.Module):
    """Single-head self-attention over time around a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = MaskedGroupNorm(_NORM_GROUPS, channels, eps=1e-6)
        self.q = nn.Conv1d(channels, channels, 1)
        self.k = nn.Conv1d(channels, channels, 1)
        self.v = nn.Conv1d(channels, channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm(x, mask)
        q, k, v = (layer(h).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v, mask)[:, 0].transpose(1, 2))


class _Downsample(nn.Module):
    """Half the frames, floor(T / 2), by a stride-2 convolution padded on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.conv(F.pad(zero_outside(x, mask), (0, 1)))
        return out


class _Upsample(nn.Module):
    """Twice the frames: each repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = MaskedConv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.conv(torch.repeat_interleave(x, 2, dim=-1), mask)
        return out


class _Middle(nn.Module):
    def __init__(self, channels: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = _ResnetBlock(channels, channels, kernel_size, dropout)
        self.attn_1 = _AttnBlock(channels)
        self.block_2 = _ResnetBlock(channels, channels, kernel_size, dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x, mask), mask), mask)
        return out


class _Level(nn.Module):
    """Residual blocks of one width, each followed by attention where the level asks for it, then a change of rate."""

    def __init__(
        self,
        widths: list[int],
        kernel_size: int,
        dropout: float,
        attention: bool,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResnetBlock(a, b, kernel_size, dropout) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(_AttnBlock(width) for width in widths[1:] if attention)
        self.downsample = _Downsample(widths[-1]) if down else None
        self.upsample = _Upsample(widths[-1]) if up else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x, mask)
            if len(self.attn):
                x = self.attn[i](x, mask)
        return x


class _Encoder(nn.Module):
    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        kernel = cfg.kernel_size
        widths = [cfg.ch * mult for mult in (1, *cfg.ch_mult)]
        self.conv_in = MaskedConv1d(cfg.in_channels, cfg.ch, kernel, padding=kernel // 2)
        self.down = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise(widths)):
            blocks = [before] + [width] * cfg.num_res_blocks
            self.down.append(
                _Level(blocks, kernel, cfg.dropout, i in cfg.attn_layers, down=i in cfg.down_layers)
            )
        self.mid = _Middle(widths[-1], kernel, cfg.dropout)
        self.norm_out = MaskedGroupNorm(_NORM_GROUPS, widths[-1], eps=1e-6)
        self.conv_out = MaskedConv1d(widths[-1], 2 * cfg.z_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        mask = _mask(lengths, x)
        h = self.conv_in(x, mask)
        for level in self.down:
            h = level(h, mask)
            if isinstance(level.downsample, _Downsample):
                h = level.downsample(h, mask)
                lengths = None if lengths is None else lengths // 2
                mask = _mask(lengths, h)
        h = self.mid(h, mask)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h, mask)), mask)
        return out


class _Decoder(nn.Module):
    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        kernel = cfg.kernel_size
        widths = [cfg.ch * mult for mult in cfg.ch_mult]
        self.conv_in = MaskedConv1d(cfg.z_channels, widths[-1], kernel, padding=kernel // 2)
        self.mid = _Middle(widths[-1], _DECODER_KERNEL, cfg.dropout)
        levels = []
        for i, width in enumerate(widths):
            before = widths[min(i + 1, len(widths) - 1)]
            blocks = [before] + [width] * (cfg.num_res_blocks + 1)
            levels.append(
                _Level(
                    blocks, _DECODER_KERNEL, cfg.dropout, i in cfg.attn_layers, up=i - 1 in cfg.down_layers
                )
            )
        self.up = nn.ModuleList(levels)
        self.norm_out = MaskedGroupNorm(_NORM_GROUPS, widths[0], eps=1e-6)
        self.conv_out = MaskedConv1d(widths[0], cfg.in_channels, kernel, padding=kernel // 2)

    def forward(self, z: Tensor, lengths: Tensor | None) -> Tensor:
        mask = _mask(lengths, z)
        h = self.mid(self.conv_in(z, mask), mask)
        for level in reversed(self.up):
            h = level(h, mask)
            if isinstance(level.upsample, _Upsample):
                lengths = None if lengths is None else 2 * lengths
                mask = None if lengths is None else _mask(lengths, h, times=2)
                h = level.upsample(h, mask)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h, mask)), mask)
        return out


class Autoencoder(nn.Module):
    """VAE between frames (B, C, T) and latents (B, z, floor(T / downsampling)); see the module's docstring."""

    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = _Encoder(cfg)
        self.decoder = _Decoder(cfg)
        self.quant_conv = nn.Conv1d(2 * cfg.z_channels, 2 * cfg.z_channels, 1)
        self.post_quant_conv = nn.Conv1d(cfg.z_channels, cfg.z_channels, 1)

    @property
    def downsampling(self) -> int:
        """Frames per latent."""
        return self.cfg.downsampling

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, each (B, z, L) with L = floor(T / downsampling), at least float32.

        `x` (B, C, T) frames; `lengths` (B,) counts the valid FRAMES of each sample. The log variance is clamped to
        [-30, 20]. Both are zero (the prior) at padded latents. Raises DataError where T is shorter than one latent.
        """
        if x.shape[-1] < self.downsampling:
            raise DataError(
                f"The autoencoder got {x.shape[-1]} frames, but one latent needs {self.downsampling}; "
                f"give a longer clip."
            )
        moments = self.quant_conv(self.encoder(x, lengths))
        if moments.dtype in (torch.float16, torch.bfloat16):
            moments = moments.float()
        if lengths is not None:
            moments = zero_outside(moments, _mask(lengths // self.downsampling, moments))
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(*_LOGVAR_RANGE)

    def decode(self, z: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, C, downsampling * L) from latents (B, z, L); `lengths` (B,) counts valid LATENTS.

        Zero at padded frames.
        """
        frames: Tensor = self.decoder(self.post_quant_conv(zero_outside(z, _mask(lengths, z))), lengths)
        return frames if lengths is None else zero_outside(frames, _mask(lengths * self.downsampling, frames))

    def forward(
        self, x: Tensor, noise: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B, C, downsampling * L), mean and log variance (B, z, L) for frames `x` (B, C, T).

        The latent is mean + exp(logvar / 2) * noise with `noise` (B, z, L) given, since randomness belongs to the
        sample. `lengths` (B,) counts valid FRAMES; where one is odd its last frame is dropped, as in the reference.
        """
        mean, logvar = self.encode(x, lengths)
        z = mean + torch.exp(0.5 * logvar) * noise
        latents = None if lengths is None else lengths // self.downsampling
        return self.decode(z, latents), mean, logvar


def _mask(lengths: Tensor | None, x: Tensor, times: int = 1) -> Tensor | None:
    """Mask (B, 1, n) for `x` (B, C, n / times), or None where nothing is padded."""
    n = x.shape[-1] * times
    mask = padding_mask(lengths, n)
    return None if mask is None else mask[:, None]
