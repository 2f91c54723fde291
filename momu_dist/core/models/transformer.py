"""Transformer blocks over a packed sequence: self-attention and convolutional GEGLU feed-forward.

Source: TemporalTransformer of Make-An-Audio-2 (ldm/modules/new_attention.py), whose parameter names it keeps. Where we
differ: padded keys, convolutions and norm statistics are masked; attention goes through scaled_dot_product_attention;
rotary positions with query and key biases are offered beside the paper's learned position table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momu_dist.core.models.masked import MaskedConvLast, MaskedGroupNorm, attend

Rotation = tuple[Tensor, Tensor]  # cosines and sines, each (1 or B, 1, N, d_head / 2)


class RotaryTable(nn.Module):
    """Cosines and sines of rotary positions, kept for `size` positions and enlarged when more are asked for."""

    def __init__(self, d_head: int, base: float, size: int) -> None:
        super().__init__()
        self.base = base
        self.pairs = d_head // 2
        self.register_buffer("angles", self._angles(size, torch.device("cpu")), persistent=False)
        self.angles: Tensor

    def _angles(self, size: int, device: torch.device) -> Tensor:
        rates = self.base ** (-torch.arange(self.pairs, device=device, dtype=torch.float64) / self.pairs)
        phase = torch.arange(size, device=device, dtype=torch.float64)[:, None] * rates
        return torch.stack((phase.cos(), phase.sin())).float()

    def forward(self, positions: Tensor, size: int) -> Rotation:
        """Rotation for integer `positions` (1 or B, N), all below `size`.

        A position of -1 is not rotated.
        """
        # Built in float32 whatever the module was cast to: a bfloat16 table would blur neighbouring frames.
        if size > self.angles.shape[1] or self.angles.dtype != torch.float32:
            self.angles = self._angles(max(size, self.angles.shape[1]), positions.device)
        found = self.angles[:, positions.clamp_min(0)]  # position 0 is the identity, hence right for -1 too
        return found[0, :, None], found[1, :, None]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """`x` (B, heads, N, d_head) turned by its position, in its own type; channel i pairs with i + d_head / 2."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention; q, k and v have no bias, except with a local prior.

    `local_prior`: q and k get a learned bias each, both initialised to the same vector local_prior * randn. Under
    rotary positions their product is largest where two positions are equal, so attention starts peaked at the same
    frame of every modality instead of having to find the alignment.
    """

    def __init__(self, width: int, heads: int, local_prior: float | None) -> None:
        super().__init__()
        self.heads = heads
        biased = local_prior is not None
        self.to_q = nn.Linear(width, width, bias=biased)
        self.to_k = nn.Linear(width, width, bias=biased)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.local_prior = local_prior

    def init_local_prior(self) -> None:
        """Draw the common initial value of the q and k biases (nothing to do without a local prior)."""
        if self.local_prior is not None:
            with torch.no_grad():
                self.to_q.bias.normal_(std=self.local_prior)
                self.to_k.bias.copy_(self.to_q.bias)

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """Attended (B, N, D) for `x` (B, N, D); `mask` (B, 1, N) hides padded keys."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out: Tensor = self.to_out(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return out


class _GEGLU(nn.Module):
    def __init__(self, width: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.proj = MaskedConvLast(width, 2 * inner, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        value, gate = self.proj(x, mask).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out


class ConvFeedForward(nn.Module):
    """Two convolutions around a GEGLU, over (B, N, D)."""

    def __init__(self, width: int, mult: int, kernel: int) -> None:
        super().__init__()
        inner = width * mult
        # Index 1 is the reference's dropout (0): the state dict numbers the second convolution 2.
        self.net = nn.ModuleList(
            [
                _GEGLU(width, inner, kernel),
                nn.Identity(),
                MaskedConvLast(inner, width, kernel, padding=kernel // 2),
            ]
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.net[2](self.net[0](x, mask), mask)
        return out


class _TransformerBlock(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        self_attentions: int,
        ff_mult: int,
        ff_kernel: int,
        local_prior: float | None,
    ) -> None:
        super().__init__()
        # In the reference's order, so that the two state dicts list alike.
        self.attn1 = SelfAttention(width, heads, local_prior)
        self.ff = ConvFeedForward(width, ff_mult, ff_kernel)
        self.attn2 = SelfAttention(width, heads, local_prior) if self_attentions == 2 else None
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width) if self_attentions == 2 else None
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x), rotation, mask)
        if self.attn2 is not None and self.norm2 is not None:
            x = x + self.attn2(self.norm2(x), rotation, mask)
        out: Tensor = x + self.ff(self.norm3(x), mask)
        return out


class TemporalTransformer(nn.Module):
    """Residual block over (B, D, N): GroupNorm, 1x1 convolution, transformer block, 1x1 convolution from zero."""

    def __init__(
        self,
        width: int,
        heads: int,
        self_attentions: int,
        ff_mult: int,
        ff_kernel: int,
        local_prior: float | None,
    ) -> None:
        super().__init__()
        self.norm = MaskedGroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Conv1d(width, width, 1)
        block = _TransformerBlock(width, heads, self_attentions, ff_mult, ff_kernel, local_prior)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Conv1d(width, width, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """`x` (B, D, N), `rotation` for its N positions or None, `mask` (B, 1, N) or None."""
        h = self.proj_in(self.norm(x, mask)).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, rotation, mask)
        return x + self.proj_out(h.transpose(1, 2))
