"""2-D PatchGAN over (frequency or channel) x time, the discriminator of Eq. 10.

Source: NLayerDiscriminator of pix2pix as used by Make-An-Audio-2; same parameter names. Where we differ: `norm="group"`
(statistics of one sample only, so that training does not depend on how a batch is split), and padded batches.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from momu_dist.core.models.masked import MaskedBatchNorm2d, MaskedConv2d, MaskedGroupNorm, padding_mask
from momu_dist.errors import ConfigError, DataError

_KERNEL = 4
_SLOPE = 0.2


def _strides(n_layers: int) -> tuple[int, ...]:
    return (2,) * n_layers + (1, 1)


def patch_lengths(lengths_frames: Tensor, n_layers: int = 3) -> Tensor:
    """Logit columns (B,) that a sample of lengths_frames[b] frames has when it is alone; 0 where it is too short.

    They are the columns of `PatchDiscriminator(x, lengths_frames)` that belong to the sample.
    """
    lengths = lengths_frames
    for stride in _strides(n_layers):
        lengths = (lengths + 2 - _KERNEL).div(stride, rounding_mode="floor") + 1
    return lengths.clamp_min(0)


class PatchDiscriminator(nn.Module):
    """Logits per patch, without a sigmoid (the GAN is a least-squares one); 2,763,585 parameters by default."""

    def __init__(
        self,
        in_channels: int = 1,
        ndf: int = 64,
        n_layers: int = 3,
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ConfigError(
                f"The discriminator got norm={norm!r}, but it knows batch and group; choose one of them."
            )
        self.n_layers = n_layers
        widths = [ndf * min(2**i, 8) for i in range(n_layers + 1)]
        layers: list[nn.Module] = [
            MaskedConv2d(in_channels, ndf, _KERNEL, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
        ]
        for before, width, stride in zip(widths[:-1], widths[1:], _strides(n_layers)[1:-1], strict=True):
            # The convolution has no bias: the norm that follows has one.
            layers.append(MaskedConv2d(before, width, _KERNEL, stride=stride, padding=1, bias=False))
            layers.append(
                MaskedBatchNorm2d(width) if norm == "batch" else MaskedGroupNorm(math.gcd(32, width), width)
            )
            layers.append(nn.LeakyReLU(_SLOPE))
        layers.append(MaskedConv2d(widths[-1], 1, _KERNEL, stride=1, padding=1))
        self.main = nn.ModuleList(layers)
        self._init()

    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, 1, f, t) for `x` (B, 1, F, T); `lengths` (B,) counts valid frames (columns of x).

        With lengths the first `patch_lengths(lengths)` columns of a sample are what the sample alone would give; the
        columns beyond have no meaning. Raises DataError where x is smaller than one patch.
        """
        smallest = 3 * 2**self.n_layers
        if min(x.shape[-2:]) < smallest:
            raise DataError(
                f"The discriminator got an input of {x.shape[-2]} channels x {x.shape[-1]} frames, but its "
                f"patches need at least {smallest} of each; use longer crops or fewer layers."
            )
        mask = _columns(lengths, x)
        for layer in self.main:
            if isinstance(layer, nn.Conv2d):
                x = layer(x, mask)
                lengths = None if lengths is None else _after(lengths, layer)
                mask = _columns(lengths, x)
            elif isinstance(layer, nn.LeakyReLU):
                x = F.leaky_relu(x, _SLOPE)
            else:
                x = layer(x, mask)
        return x


def _after(lengths: Tensor, conv: nn.Conv2d) -> Tensor:
    return ((lengths + 2 - _KERNEL).div(conv.stride[1], rounding_mode="floor") + 1).clamp_min(0)


def _columns(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    mask = padding_mask(lengths, x.shape[-1])
    return None if mask is None else mask[:, None, None, :]
