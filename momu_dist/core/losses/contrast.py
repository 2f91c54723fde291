"""Rhythmic contrastive loss between music and motion latents, Eq. 3-4.

For each pair, clips of the latents are drawn and sorted by their largest kinematic amplitude (Eq. 2) into categories;
one clip of each category that is not empty is kept, and the kept clips are told apart across the modalities. All
negatives come from inside the pair, so nothing is gathered across workers.

DERIVED, the paper being silent: categories are equal bins of [0, 1]; clips of 1 to 2 s (32 to 64 latents); 16 clips
in 8 categories; cosine similarity at a fixed temperature of 0.07; mean over clips, then over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from momu_dist.core.ranges import Checked
from momu_dist.core.seeds import numpy_rng
from momu_dist.errors import ConfigError

Clip = tuple[int, int]  # first latent, one past the last


@dataclass(frozen=True)
class ContrastConfig(Checked):
    """`n_clips` N_T clips drawn, `n_categories` N_C, `clip_latents` shortest and longest clip in latents, `tau`."""

    n_clips: int = 16
    n_categories: int = 8
    clip_latents: tuple[int, int] = (32, 64)
    tau: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        shortest, longest = self.clip_latents
        if not 1 <= shortest <= longest or self.n_clips < 2 or self.n_categories < 2 or self.tau <= 0:
            raise ConfigError(
                f"The contrast got n_clips={self.n_clips}, n_categories={self.n_categories}, "
                f"clip_latents={self.clip_latents}, tau={self.tau}, but it needs at least two clips and categories, "
                f"1 <= shortest <= longest and a positive tau; correct these values."
            )


def choose_clips(
    seed: int, amplitude: np.ndarray | Tensor, n_latents: int, cfg: ContrastConfig
) -> list[Clip]:
    """One clip (first, one past the last latent) of each non-empty category, quietest first.

    A function of its arguments alone. `amplitude` (L,) in [0, 1] per latent, the largest of its frames; only the first
    `n_latents` count, so padding changes nothing. Clips are no longer than `n_latents`; no latents give no clips.
    """
    n = min(n_latents, len(amplitude))
    if n < 1:
        return []
    q = np.asarray(amplitude[:n], dtype=np.float64)
    rng = numpy_rng(seed, "contrast clips")
    shortest, longest = (min(latents, n) for latents in cfg.clip_latents)
    categories: dict[int, list[Clip]] = {}
    for _ in range(cfg.n_clips):
        length = int(rng.integers(shortest, longest + 1))
        start = int(rng.integers(0, n - length + 1))
        loudest = float(q[start : start + length].max())
        category = min(int(loudest * cfg.n_categories), cfg.n_categories - 1)
        categories.setdefault(category, []).append((start, start + length))
    return [clips[int(rng.integers(len(clips)))] for _, clips in sorted(categories.items())]


def clip_features(z: Tensor, clips: Sequence[Clip]) -> Tensor:
    """Largest value of each channel in each clip (Eq. 3): (n, d) for latents `z` (d, L)."""
    if not clips:
        return z.new_zeros((0, z.shape[0]))
    return torch.stack([z[:, start:end].amax(dim=-1) for start, end in clips])


def info_nce(c_a: Tensor, c_m: Tensor, tau: float) -> Tensor:
    """Eq. 4 averaged over its n clips: a scalar from music and motion features, each (n, d), pairs by row.

    Half of the cross entropy of finding the motion of each music clip, half of the reverse; cosine similarity / tau.
    Float32 or wider, also under autocast: at tau 0.07 bfloat16 similarities would be off by 0.05.
    """
    with torch.autocast(c_a.device.type, enabled=False):
        c_a, c_m = (F.normalize(c.float() if c.dtype != torch.float64 else c, dim=-1) for c in (c_a, c_m))
        logits = c_a @ c_m.t() / tau
        own = torch.arange(len(logits), device=logits.device)
        return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own))


def contrastive_loss(z_a: Tensor, z_m: Tensor, clips: Sequence[Sequence[Clip]], tau: float = 0.07) -> Tensor:
    """Eq. 4 averaged over the batch: a scalar, the mean of `contrastive_terms`."""
    return contrastive_terms(z_a, z_m, clips, tau).mean()


def contrastive_terms(z_a: Tensor, z_m: Tensor, clips: Sequence[Sequence[Clip]], tau: float = 0.07) -> Tensor:
    """Eq. 4 of each sample (B,) from latents `z_a`, `z_m` (B, d, L) and each sample's `choose_clips`.

    A sample with fewer than two clips has no negative and counts as 0 (with its gradient graph, so that every worker
    runs the same backward pass).
    """
    losses = []
    for a, m, chosen in zip(z_a, z_m, clips, strict=True):
        if len(chosen) < 2:
            losses.append(0.0 * (a[:, :1].float().sum() + m[:, :1].float().sum()))
        else:
            losses.append(info_nce(clip_features(a, chosen), clip_features(m, chosen), tau))
    return torch.stack(losses)
