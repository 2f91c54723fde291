"""Diffusion in the latent space: music from motion (m2a) and motion from music (a2m), Eq. 6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.latents import Scaling
from momu_dist.core.models.dit import DiTConfig, LatentDiT
from momu_dist.core.models.masked import length_mask
from momu_dist.core.random import randn_each, uniform_each
from momu_dist.core.ranges import Checked, Count, Share
from momu_dist.core.tasks.base import Batch, Networks, Phase, Row, TaskInputs, draw_crop, make_batch, required

VALIDATION_BINS = 4
"""Validation measures the loss in this many equal ranges of the diffusion step."""


@dataclass(frozen=True)
class DitLoss(Checked):
    """Eq. 6 with the condition dropped at random for Eq. 7."""

    condition_drop: Share = 0.1  # DERIVED (Make-An-Audio 0.1)
    latent_scaling: Scaling = (
        "scalar"  # LDM divides by one standard deviation; `channel` fits uneven channels better
    )
    diffusion_steps: Count = 1000


class DitTask:
    """Trains `dit` to denoise latents of `target` given those of `condition`.

    Rows hold, for both modalities, mean and logvar (L, 20) of the VAE posterior. The target is a sample of its posterior
    (as in LDM), the condition its mean (as at inference, DERIVED).
    """

    target: ClassVar[str]
    condition: ClassVar[str]
    columns: tuple[str, ...] = ("music_mean", "music_logvar", "motion_mean", "motion_logvar")

    def __init__(self, model: DiTConfig, loss: DitLoss, inputs: TaskInputs) -> None:
        self.model = model
        self.loss = loss
        self.inputs = inputs
        self.scales = required(inputs.latent_scales, "latent scales")
        self.schedule = NoiseSchedule.linear(loss.diffusion_steps)

    def networks(self) -> dict[str, nn.Module]:
        return {"dit": LatentDiT(self.model)}

    def to(self, device: torch.device) -> None:
        """Nothing is frozen in this stage: the latents are cached."""

    def collate(self, rows: Sequence[Row], seeds: Sequence[int]) -> Batch:
        shortest, longest = (frames // 2 for frames in self.inputs.length_frames)
        crops = []
        for row, seed in zip(rows, seeds, strict=True):
            start, stop = draw_crop(seed, len(row["music_mean"]), shortest, longest)
            crops.append(
                {
                    "mean": row[f"{self.target}_mean"][start:stop].T,
                    "logvar": row[f"{self.target}_logvar"][start:stop].T,
                    "condition": row[f"{self.condition}_mean"][start:stop].T,
                }
            )
        return make_batch(rows, seeds, crops)

    def phases(self, networks: Networks, batch: Batch, progress: float) -> Iterator[Phase]:
        z0, condition = self._clean(batch)
        t = (uniform_each(batch.seeds, "t") * self.loss.diffusion_steps).long().to(z0.device)
        drop = (uniform_each(batch.seeds, "drop") < self.loss.condition_drop).to(z0.device)
        loss = self._per_sample(networks["dit"], batch, z0, t, condition, drop, "eps").mean()
        yield Phase("dit", loss, {"total": loss})

    def validate(self, networks: Networks, batch: Batch) -> dict[str, Tensor]:
        """The loss with the true, another clip's and the null condition, by range of the diffusion step.

        Equal values mean that the condition is ignored, however nicely the loss falls.
        """
        z0, condition = self._clean(batch)
        n, dit = len(batch.seeds), networks["dit"]
        conditions = {"true": condition, "shuffled": _partner(condition, batch.lengths), "null": condition}
        values: dict[str, Tensor] = {}
        for name, given in conditions.items():
            drop = torch.full((n,), name == "null", device=z0.device)
            per_bin = []
            for k in range(VALIDATION_BINS):
                share = (k + uniform_each(batch.seeds, f"t{k}")) / VALIDATION_BINS
                t = (share * self.loss.diffusion_steps).long().to(z0.device)
                loss = self._per_sample(dit, batch, z0, t, given, drop, f"eps{k}")
                if name == "shuffled" and n == 1:
                    loss = torch.full_like(loss, torch.nan)
                per_bin.append(loss)
                values[f"{name}/t{k}"] = loss
            values[name] = torch.stack(per_bin).mean(0)
        return values

    def _clean(self, batch: Batch) -> tuple[Tensor, Tensor]:
        mean, logvar = batch["mean"], batch["logvar"]
        noise = randn_each(batch.seeds, (mean.shape[-1], mean.shape[1]), "posterior").transpose(1, 2).to(mean)
        z0 = self.scales[self.target].normalise(mean + (0.5 * logvar).exp() * noise)
        return z0, self.scales[self.condition].normalise(batch["condition"])

    def _per_sample(
        self,
        dit: nn.Module,
        batch: Batch,
        z0: Tensor,
        t: Tensor,
        condition: Tensor,
        drop: Tensor,
        purpose: str,
    ) -> Tensor:
        """Return each sample's own mean squared error (B,) over its valid latents."""
        eps = randn_each(batch.seeds, (z0.shape[-1], z0.shape[1]), purpose).transpose(1, 2).to(z0)
        z_t = self.schedule.q_sample(z0, t, eps)
        truth = eps if self.model.prediction == "eps" else self.schedule.v_target(z0, t, eps)
        predicted = dit(z_t, t, condition, batch.lengths, drop)
        mask = length_mask(batch.lengths, z0.shape[-1])[:, None].to(z0)
        return ((predicted.float() - truth) ** 2 * mask).sum((1, 2)) / (batch.lengths * z0.shape[1])


class DitMotionToMusic(DitTask):
    """theta_a: music latents from motion latents."""

    target, condition = "music", "motion"


class DitMusicToMotion(DitTask):
    """theta_m: motion latents from music latents."""

    target, condition = "motion", "music"


def _partner(condition: Tensor, lengths: Tensor) -> Tensor:
    """Return the next sample's condition for each sample, repeated in time where it is shorter."""
    rows = []
    for i, n in enumerate(lengths.tolist()):
        other = (i + 1) % len(lengths)
        valid = condition[other, :, : int(lengths[other])]
        repeats = -(-n // valid.shape[-1])
        row = torch.zeros_like(condition[i])
        row[:, :n] = valid.repeat(1, repeats)[:, :n]
        rows.append(row)
    return torch.stack(rows)
