"""Diffusion transformer over latents, conditioned on the other modality's latents: the paper's FFT (Table 9).

Source: ConcatDiT of Make-An-Audio-2 (`ConcatDiT` here, with its parameter names). `LatentDiT` adds what the paper
adds: a map of the condition's latents to the context width, and a learned null condition for Eq. 7.

The sequence is [t, condition, target]. Where we differ from the reference: a padded batch is packed, sample by sample,
to [t, c[:n], x[:n], padding], and the padding is masked everywhere, so a sample never sees what it was padded to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from momu_dist.core.models.masked import (
    MaskedConv1d,
    MaskedGroupNorm,
    length_mask,
    padding_mask,
    zero_outside,
)
from momu_dist.core.models.transformer import RotaryTable, Rotation, SelfAttention, TemporalTransformer
from momu_dist.core.ranges import Checked, Count, Range
from momu_dist.errors import ConfigError

_FREQUENCIES = 256
_LEARNED = "learned"
_ALIGNED = "aligned"


@dataclass(frozen=True)
class DiTConfig(Checked):
    """Shape of the diffusion transformer; the defaults are the paper's (Table 9) for 25 s.

    `max_latents`: longest target in latents. With `positions="learned"` (the paper) it sizes the position table and is
    a limit; with "aligned" (rotary, the condition's frame i and the target's frame i share a position) there is no
    table and longer input is taken. `local_prior` and `rotary_base` matter for "aligned" only. `prediction` is what the
    output means (the noise, as in the paper, or v); the network itself is the same.
    """

    in_channels: Count = 20
    condition_channels: Count = 20
    context_dim: Count = 1024
    hidden_size: Count = 576
    num_heads: Count = 8
    depth: Count = 4
    max_latents: Count = 781
    kernel_size: Count = 5
    self_attentions: int = 2
    ff_kernel: Count = 9
    ff_mult: Count = 4
    positions: Literal["learned", "aligned"] = "learned"
    local_prior: float = 1.2
    rotary_base: Annotated[float, Range(0, above=True)] = 1000.0
    prediction: Literal["eps", "v"] = "eps"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % 32 or self.hidden_size % (2 * self.num_heads):
            raise ConfigError(
                f"The diffusion transformer got hidden_size={self.hidden_size} and num_heads={self.num_heads}, but "
                f"the width must be divisible by 32 (norm groups) and by twice the heads; choose for example 96 and 2."
            )
        for name, known in (
            ("positions", (_LEARNED, _ALIGNED)),
            ("prediction", ("eps", "v")),
            ("self_attentions", (1, 2)),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"The diffusion transformer got {name}={getattr(self, name)!r}, but it knows "
                    f"{' and '.join(map(str, known))}; choose one of them."
                )
        if self.kernel_size % 2 == 0 or self.ff_kernel % 2 == 0:
            raise ConfigError(
                f"The diffusion transformer got kernel_size={self.kernel_size} and ff_kernel={self.ff_kernel}, but "
                f"only odd kernels keep the length; choose odd ones."
            )

    @property
    def max_len(self) -> int:
        """Rows of the learned position table: [t, c, x] of the longest target, rounded up to 64."""
        return math.ceil((1 + 2 * self.max_latents) / 64) * 64


def timestep_embedding(t: Tensor, width: int = _FREQUENCIES, max_period: float = 1e4) -> Tensor:
    """Sinusoidal embedding (B, width), cosines then sines, of the diffusion steps `t` (B,)."""
    half = width // 2
    rates = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    phase = t[:, None].float() * rates
    return torch.cat((phase.cos(), phase.sin()), dim=-1)


class _TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        out: Tensor = self.mlp(timestep_embedding(t).to(next(self.mlp.parameters()).dtype))
        return out


class _ConditionEmbedder(nn.Module):
    def __init__(self, width: int, context_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(context_dim, width),
            nn.GELU(approximate="tanh"),
            nn.Linear(width, width),
            nn.LayerNorm(width),
        )

    def forward(self, context: Tensor) -> Tensor:
        out: Tensor = self.mlp(context)
        return out


class _LearnedPositions(nn.Embedding):
    """Adds its first N rows to a sequence (B, N, D); padded rows get some too, which nobody reads."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if n > self.num_embeddings:
            raise ConfigError(
                f"The diffusion transformer got {(n - 1) // 2} latents, but its learned positions end at "
                f"{(self.num_embeddings - 1) // 2}; generate at most that, or train with a larger max_latents or with "
                f"positions=aligned."
            )
        return x + self.weight[:n]


class _FinalLayer(nn.Module):
    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = MaskedGroupNorm(16, width)
        self.conv1d = nn.Conv1d(width, out_channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.conv1d(self.norm_final(x, mask))
        return out


@dataclass(frozen=True)
class _Packing:
    """Where the valid tokens of [t, c, x] go: sample b becomes [t, c[:n], x[:n], padding] (indices into axis 1)."""

    pack: Tensor  # (B, 1 + 2 L)
    unpack: Tensor  # (B, L), the packed places of x
    mask: Tensor  # (B, 1, 1 + 2 L)
    positions: Tensor  # (B, 1 + 2 L) frame index, -1 for t

    @staticmethod
    def of(lengths: Tensor, latents: int) -> _Packing:
        place = torch.arange(1 + 2 * latents, device=lengths.device)[None, :]
        n = lengths[:, None]
        in_target = place > n
        pack = torch.where(in_target, place + latents - n, place).clamp_max(2 * latents)
        unpack = (place[:, 1 : 1 + latents] + n).clamp_max(2 * latents)
        positions = torch.where(in_target, place - 1 - n, place - 1).clamp_max(latents - 1)
        return _Packing(pack, unpack, length_mask(1 + 2 * lengths, 1 + 2 * latents)[:, None], positions)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b, i]] as (B, i, D)."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


class ConcatDiT(nn.Module):
    """Denoiser of latents in the context of tokens; see the module's docstring."""

    def __init__(self, cfg: DiTConfig, max_len: int | None = None) -> None:
        """`max_len` rows of the learned position table; by default `cfg.max_len`."""
        super().__init__()
        width = cfg.hidden_size
        aligned = cfg.positions == _ALIGNED
        self.t_embedder = _TimestepEmbedder(width)
        self.c_embedder = _ConditionEmbedder(width, cfg.context_dim)
        self.proj_in = MaskedConv1d(cfg.in_channels, width, cfg.kernel_size, padding=cfg.kernel_size // 2)
        if aligned:
            self.rotary = RotaryTable(width // cfg.num_heads, cfg.rotary_base, cfg.max_latents)
            self.modality = nn.Embedding(3, width)  # t, condition, target
        else:
            self.pos_emb = _LearnedPositions(cfg.max_len if max_len is None else max_len, width)
        self.aligned = aligned
        self.blocks = nn.ModuleList(
            TemporalTransformer(
                width,
                cfg.num_heads,
                cfg.self_attentions,
                cfg.ff_mult,
                cfg.ff_kernel,
                cfg.local_prior if aligned else None,
            )
            for _ in range(cfg.depth)
        )
        self.final_layer = _FinalLayer(width, cfg.in_channels)
        self._init()

    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.init_local_prior()
        for name, parameter in self.t_embedder.mlp.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
        if self.aligned:
            nn.init.normal_(self.modality.weight, std=0.02)
        else:
            nn.init.xavier_normal_(self.pos_emb.weight)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Prediction (B, C, L) for noisy latents `x` (B, C, L) at diffusion steps `t` (B,).

        `context` (B, Lc, context_dim) tokens; `lengths` (B,) counts the valid latents of x and, alike, the valid tokens
        (then Lc = L). Zero at padded latents. Raises ConfigError where learned positions end before the sequence does.
        """
        latents, tokens = x.shape[-1], context.shape[1]
        mask = padding_mask(lengths, latents)
        target_mask = None if mask is None else mask[:, None]
        time = self.t_embedder(t)[:, None]
        condition = self.c_embedder(context)
        target = self.proj_in(x, target_mask).transpose(1, 2)
        sequence = torch.cat((time, condition, target), dim=1)
        packing = None
        if lengths is not None and mask is not None:
            assert tokens == latents, "padded batches need as many context tokens as latents"
            packing = _Packing.of(lengths, latents)
        sequence, rotation = self._position(sequence, tokens, packing)
        sequence_mask = None if packing is None else packing.mask
        h = sequence.transpose(1, 2)
        for block in self.blocks:
            h = block(h, rotation, sequence_mask)
        if packing is None:
            return self._final(h[..., 1 + tokens :], None)
        return self._final(_take(h.transpose(1, 2), packing.unpack).transpose(1, 2), target_mask)

    def _final(self, h: Tensor, mask: Tensor | None) -> Tensor:
        return zero_outside(self.final_layer(h, mask), mask)

    def _position(
        self, sequence: Tensor, tokens: int, packing: _Packing | None
    ) -> tuple[Tensor, Rotation | None]:
        """The packed sequence with what tells its tokens where they are, and the rotation of its positions, if any."""
        if not self.aligned:
            packed = sequence if packing is None else _take(sequence, packing.pack)
            return self.pos_emb(packed), None
        device, n = sequence.device, sequence.shape[1]
        latents = n - 1 - tokens
        kinds = torch.arange(n, device=device)
        sequence = sequence + self.modality((kinds > 0).long() + (kinds > tokens).long())
        if packing is None:
            positions = torch.where(kinds > tokens, kinds - 1 - tokens, kinds - 1)[None]
        else:
            positions, sequence = packing.positions, _take(sequence, packing.pack)
        return sequence, self.rotary(positions, max(tokens, latents))


class LatentDiT(nn.Module):
    """Denoiser of one modality's latents given the other's: 158 to 160 M parameters at the paper's size.

    The condition's latents pass a linear map to the context width (DERIVED from Table 9: conditional embedding 1024); a
    dropped or missing condition becomes as many copies of one learned null embedding.
    """

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.net = ConcatDiT(cfg)
        self.context = nn.Linear(cfg.condition_channels, cfg.context_dim)
        self.null = nn.Parameter(torch.randn(cfg.context_dim) * 0.02)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        condition: Tensor | None,
        lengths: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Tensor:
        """Prediction (B, C, L) for noisy latents `z` (B, C, L) at integer diffusion steps `t` (B,).

        `condition` (B, condition_channels, L) latents of the other modality at the same rate, or None for the null
        condition; `drop` (B,) bool, True where a sample's condition is replaced by the null one; `lengths` (B,) counts
        valid latents. Zero at padded latents. Raises ConfigError where learned positions end before the input does.
        """
        null = self.null.expand(z.shape[0], z.shape[-1], -1)
        if condition is None:
            context = null
        else:
            context = self.context(condition.transpose(1, 2))
            if drop is not None:
                context = torch.where(drop[:, None, None], null.to(context.dtype), context)
        out: Tensor = self.net(z, t, context, lengths)
        return out
