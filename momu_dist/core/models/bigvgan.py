"""BigVGAN, the vocoder: from log mel to a waveform, with snake activations that do not alias.

Source: BigVGAN (Lee et al., ICLR 2023), as in Make-An-Audio's `vocoder/bigvgan` and NVIDIA/BigVGAN; parameter and buffer
names are theirs, so that the weights of both load. Where we differ: plain PyTorch only (no fused CUDA kernel), and the
weight norm is written out, because torch's current one has other names in the state dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momu_dist.errors import ConfigError, DataError

_RATIO = 2  # of the sampling rate inside an activation
_TAPS = 12  # of its low-pass filter
_ACTIVATION_REACH = _TAPS // _RATIO  # samples to each side that an activation sees
_EDGE_KERNEL = 7  # of the first and the last convolution


@dataclass(frozen=True)
class BigVGANConfig:
    """Shape of the vocoder; the defaults are Make-An-Audio's 16 kHz model (112,231,250 parameters).

    The fields have the names of the reference's `args.yml` and `config.json`. `resblock` "1" has two convolutions a
    dilation, "2" one. `snakebeta` has an amplitude of its own beside the frequency; `snake_logscale` keeps both as
    logarithms. Without `use_tanh_at_final` the output is clamped to [-1, 1] instead.
    """

    num_mels: int = 80
    upsample_rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (8, 8, 4, 4, 4, 4)
    upsample_initial_channel: int = 1536
    resblock: Literal["1", "2"] = "1"
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    activation: Literal["snake", "snakebeta"] = "snakebeta"
    snake_logscale: bool = True
    use_tanh_at_final: bool = True
    use_bias_at_final: bool = True

    def __post_init__(self) -> None:
        for name, known in (("resblock", ("1", "2")), ("activation", ("snake", "snakebeta"))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"The vocoder got {name}={getattr(self, name)!r}, but it knows {' and '.join(known)}; choose one."
                )
        if min((self.num_mels, *self.upsample_rates, *map(min, self.resblock_dilation_sizes)), default=0) < 1:
            raise ConfigError(
                "The vocoder got a num_mels, an upsample rate or a dilation below 1; mend its config."
            )
        kernels, rates = self.upsample_kernel_sizes, self.upsample_rates
        fit = len(kernels) == len(rates) and all(
            k >= u and (k - u) % 2 == 0 for k, u in zip(kernels, rates, strict=True)
        )
        if not fit:
            raise ConfigError(
                f"The vocoder got upsample_kernel_sizes={list(kernels)} for upsample_rates={list(rates)}, but each rate "
                "needs one kernel that is at least as long and differs by an even number; twice the rate is usual."
            )
        kernels, dilations = self.resblock_kernel_sizes, self.resblock_dilation_sizes
        if not kernels or len(kernels) != len(dilations) or any(kernel % 2 == 0 for kernel in kernels):
            raise ConfigError(
                f"The vocoder got resblock_kernel_sizes={list(kernels)} and {len(dilations)} lists of dilations, but it "
                "needs one list a kernel, and odd kernels; [3, 7, 11] with [[1, 3, 5]] * 3 is usual."
            )
        halvings = 2 ** len(rates)
        if self.upsample_initial_channel < halvings or self.upsample_initial_channel % halvings:
            raise ConfigError(
                f"The vocoder got upsample_initial_channel={self.upsample_initial_channel}, but {len(rates)} upsample "
                f"rates halve it as often; choose a multiple of {halvings}."
            )

    @classmethod
    def from_reference(cls, tree: Mapping[str, Any]) -> BigVGANConfig:
        """Return the network that a reference's `args.yml` or `config.json` describes; its training keys are not read."""
        known = {field.name: tree[field.name] for field in fields(cls) if field.name in tree}
        if "resblock" in known:
            known["resblock"] = str(known["resblock"])
        return cls(**{name: _as_tuple(value) for name, value in known.items()})

    @property
    def hop(self) -> int:
        """Samples of audio that one mel frame becomes."""
        return math.prod(self.upsample_rates)

    @property
    def reach_frames(self) -> int:
        """Mel frames to each side that a sample of audio may depend on (a bound; 42 for the defaults)."""
        seconds = 1 if self.resblock == "1" else 0  # undilated convolutions after each dilated one
        block = max(
            sum((kernel - 1) // 2 * (dilation + seconds) for dilation in dilations)
            + len(dilations) * (1 + seconds) * _ACTIVATION_REACH
            for kernel, dilations in zip(
                self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True
            )
        )
        reach = _EDGE_KERNEL // 2 + _ACTIVATION_REACH
        for rate, kernel in zip(self.upsample_rates[::-1], self.upsample_kernel_sizes[::-1], strict=True):
            reach = math.ceil((reach + block + kernel) / rate)
        return reach + _EDGE_KERNEL // 2


class BigVGAN(nn.Module):
    """Waveform in [-1, 1] of a log mel; the mel's logarithm, bands and rate are what the weights were trained on."""

    def __init__(self, config: BigVGANConfig) -> None:
        super().__init__()
        self.config = config
        width = config.upsample_initial_channel
        self.conv_pre = WeightNormConv(config.num_mels, width, _EDGE_KERNEL)
        # Lists of one, for the reference's names `ups.0.0.weight_g`.
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(nn.ModuleList([WeightNormUpsampling(width, width // 2, kernel, rate)]))
            width //= 2
            for size, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
            ):
                self.resblocks.append(AMPBlock(config, width, size, dilations))
        self.activation_post = AntiAliasedSnake(config, width)
        self.conv_post = WeightNormConv(width, 1, _EDGE_KERNEL, bias=config.use_bias_at_final)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Waveform (B, 1, hop * T) for `log_mel` (B, num_mels, T).

        The network sees some frames to both sides: pad to the longest and a shorter sample's end changes. Zero samples
        give (0, 1, hop * T). Raises DataError for another number of bands or T = 0.
        """
        config = self.config
        if log_mel.ndim != 3 or log_mel.shape[1] != config.num_mels or log_mel.shape[2] < 1:
            raise DataError(
                f"The vocoder got a mel of shape {tuple(log_mel.shape)}, expected (B, {config.num_mels}, T) with T >= 1."
            )
        x = self.conv_pre(log_mel)
        n_kernels = len(config.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up[0](x)  # type: ignore[index]
            blocks = self.resblocks[i * n_kernels : (i + 1) * n_kernels]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / n_kernels
        x = self.conv_post(self.activation_post(x))
        return torch.tanh(x) if config.use_tanh_at_final else x.clamp(-1.0, 1.0)


class AMPBlock(nn.Module):
    """Residual block with anti-aliased periodic activations ("AMP"): (activation, convolution) pairs, dilated."""

    def __init__(self, config: BigVGANConfig, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.paired = config.resblock == "1"
        dilated = nn.ModuleList(WeightNormConv(channels, channels, kernel, dilation=d) for d in dilations)
        if self.paired:
            self.convs1 = dilated
            self.convs2 = nn.ModuleList(WeightNormConv(channels, channels, kernel) for _ in dilations)
        else:
            self.convs = dilated
        n_activations = len(dilations) * (2 if self.paired else 1)
        self.activations = nn.ModuleList(AntiAliasedSnake(config, channels) for _ in range(n_activations))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) for (B, C, T)."""
        if not self.paired:
            for activation, conv in zip(self.activations, self.convs, strict=True):
                x = x + conv(activation(x))
            return x
        pairs = zip(self.activations[::2], self.convs1, self.activations[1::2], self.convs2, strict=True)
        for first, dilated, second, conv in pairs:
            x = x + conv(second(dilated(first(x))))
        return x


class Snake(nn.Module):
    """x + sin(alpha x)^2 / beta with alpha, beta per channel; `snake` has beta = alpha (Ziyin et al., 2020)."""

    def __init__(self, config: BigVGANConfig, channels: int) -> None:
        super().__init__()
        self.logscale = config.snake_logscale
        start = torch.zeros(channels) if self.logscale else torch.ones(channels)
        self.alpha = nn.Parameter(start)
        self.beta = nn.Parameter(start.clone()) if config.activation == "snakebeta" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) for (B, C, T)."""
        alpha = self.alpha[:, None]
        beta = alpha if self.beta is None else self.beta[:, None]
        if self.logscale:
            alpha, beta = alpha.exp(), beta.exp()
        return x + torch.sin(x * alpha).square() / (beta + 1e-9)


class AntiAliasedSnake(nn.Module):
    """The snake computed at twice the rate, between two low-pass filters, so that its overtones do not fold back."""

    def __init__(self, config: BigVGANConfig, channels: int) -> None:
        super().__init__()
        self.act = Snake(config, channels)
        self.upsample = _DoubleRate()
        self.downsample = _HalveRate()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) for (B, C, T), T >= 1."""
        found: Tensor = self.downsample(self.act(self.upsample(x)))
        return found


class _LowPass(nn.Module):
    """The filter of one change of rate; a buffer, because the reference's checkpoints hold it."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass_filter())


class _DoubleRate(_LowPass):
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 2 T) for (B, C, T); the edges are held."""
        pad = _TAPS // _RATIO - 1
        cut = pad * _RATIO + (_TAPS - _RATIO) // 2
        x = F.pad(x, (pad, pad), mode="replicate")
        channels = x.shape[1]
        taps = self.filter.expand(channels, -1, -1)
        return _RATIO * F.conv_transpose1d(x, taps, stride=_RATIO, groups=channels)[..., cut:-cut]


class _HalveRate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = _LowPass()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) for (B, C, 2 T); the edges are held."""
        x = F.pad(x, (_TAPS // 2 - 1, _TAPS // 2), mode="replicate")
        channels = x.shape[1]
        taps = self.lowpass.filter.expand(channels, -1, -1)
        return F.conv1d(x, taps, stride=_RATIO, groups=channels)


def low_pass_filter() -> Tensor:
    """Taps (1, 1, 12) of the Kaiser-windowed sinc at half the band (transition .3 of the rate); they sum to 1."""
    cutoff, half_width = 0.5 / _RATIO, 0.6 / _RATIO
    half = _TAPS // 2
    attenuation_db = 2.285 * (half - 1) * math.pi * 4 * half_width + 7.95
    # Kaiser's rule; the attenuation is 51.0 dB here, so the branch for more than 50 dB is the one that holds.
    beta = 0.1102 * (attenuation_db - 8.7)
    window = torch.kaiser_window(_TAPS, periodic=False, beta=beta)
    times = torch.arange(-half, half) + 0.5
    taps = 2 * cutoff * window * torch.sinc(2 * cutoff * times)
    return (taps / taps.sum())[None, None]


class WeightNormConv(nn.Module):
    """Convolution that keeps the length, its weight given as g * v / |v| per row of the first axis."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.dilation = dilation
        self.padding = (kernel - 1) * dilation // 2
        plain = nn.Conv1d(in_channels, out_channels, kernel, bias=bias)
        self.bias = plain.bias
        self.weight_g, self.weight_v = _normed(plain.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_out, T) for (B, C_in, T)."""
        weight = _weight(self.weight_g, self.weight_v)
        return F.conv1d(x, weight, self.bias, padding=self.padding, dilation=self.dilation)


class WeightNormUpsampling(nn.Module):
    """Transposed convolution to `rate` times the length, weight-normed like `WeightNormConv` (rows are inputs)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.padding = (kernel - rate) // 2
        plain = nn.ConvTranspose1d(in_channels, out_channels, kernel)
        self.bias = plain.bias
        self.weight_g, self.weight_v = _normed(plain.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_out, rate * T) for (B, C_in, T)."""
        weight = _weight(self.weight_g, self.weight_v)
        return F.conv_transpose1d(x, weight, self.bias, stride=self.rate, padding=self.padding)


def with_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with `weight_g` and `weight_v` for every `weight`: the same network, its norm written out."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(".weight") and value.ndim == 3:
            stem = name.removesuffix("weight")
            norm = _row_norms(value)
            found[f"{stem}weight_g"] = norm
            # A row of zeros has no direction: any one will do, since g is 0.
            found[f"{stem}weight_v"] = torch.where(norm > 0, value, torch.ones_like(value))
        else:
            found[name] = value
    return found


def _normed(weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    value = weight.detach()
    return nn.Parameter(_row_norms(value)), nn.Parameter(value.clone())


def _weight(g: Tensor, v: Tensor) -> Tensor:
    return v * (g / _row_norms(v))


def _row_norms(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list | tuple) else value
