"""BiCoR-VAE stage 2: the motion VAE, drawn to the frozen music VAE by the rhythmic contrast (Eq. 11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from momu_dist.core.losses.contrast import (
    Clip,
    ContrastConfig,
    choose_clips,
    contrastive_loss,
    contrastive_terms,
)
from momu_dist.core.losses.vae import Reduction
from momu_dist.core.models.autoencoder import Autoencoder, AutoencoderConfig
from momu_dist.core.ranges import Checked, Weight
from momu_dist.core.tasks.base import (
    Batch,
    Networks,
    Phase,
    Row,
    TaskInputs,
    draw_crop,
    make_batch,
    motion_channels,
    required,
)
from momu_dist.core.tasks.music_vae import reconstruct, reconstruction_values, vae_terms


@dataclass(frozen=True)
class MotionVaeLoss(Checked):
    """Weights of Eq. 11, how L1 and KL are reduced (see `core.losses.vae`), and the choices of Eq. 3-4."""

    kl_weight: Weight = 1e-5  # lambda_3
    contrast_weight: Weight = 1.0  # lambda_4
    reduction: Reduction = "mean"  # a summed L1, in the thousands, would drown the contrast
    contrast: ContrastConfig = field(default_factory=ContrastConfig)


class MotionVaeTask:
    """Trains `vae` on motion channels (28, T). Rows hold motion (T, 14, 2) px, mel (80, T), amplitude (T,) in [0, 1]."""

    columns: tuple[str, ...] = ("motion", "mel", "amplitude")

    def __init__(self, model: AutoencoderConfig, loss: MotionVaeLoss, inputs: TaskInputs) -> None:
        self.model = model
        self.loss = loss
        self.inputs = inputs
        self.stats = required(inputs.motion_stats, "motion statistics")
        self.music_vae: Autoencoder = required(inputs.music_vae, "a music VAE").eval().requires_grad_(False)

    def networks(self) -> dict[str, nn.Module]:
        return {"vae": Autoencoder(self.model)}

    def to(self, device: torch.device) -> None:
        self.music_vae.to(device)

    def collate(self, rows: Sequence[Row], seeds: Sequence[int]) -> Batch:
        crops = []
        for row, seed in zip(rows, seeds, strict=True):
            start, stop = draw_crop(seed, len(row["motion"]), *self.inputs.length_frames)
            crops.append(
                {
                    "motion": motion_channels(row["motion"][start:stop], self.stats),
                    "mel": row["mel"][:, start:stop],
                    "amplitude": row["amplitude"][start:stop],
                }
            )
        return make_batch(rows, seeds, crops)

    def phases(self, networks: Networks, batch: Batch, progress: float) -> Iterator[Phase]:
        motion = batch["motion"]
        reconstructed = reconstruct(networks["vae"], self.model, batch, motion)
        rec, kl = vae_terms(batch, motion, reconstructed, self.loss.reduction)
        z_music, clips = self._partners(batch)
        contrast = contrastive_loss(z_music, reconstructed[1], clips, self.loss.contrast.tau)
        total = rec + self.loss.kl_weight * kl + self.loss.contrast_weight * contrast
        yield Phase("vae", total, {"total": total, "rec": rec, "kl": kl, "contrast": contrast})

    def _partners(self, batch: Batch) -> tuple[Tensor, list[list[Clip]]]:
        """What Eq. 3-4 set beside the means of the motion: those of the music, and each sample's clips of both.

        A latent's amplitude is the larger of its two frames'.
        """
        with torch.no_grad():
            z_music, _ = self.music_vae.encode(batch["mel"], batch.lengths)
        amplitude = batch["amplitude"].cpu()
        clips = []
        for seed, row, n_frames in zip(batch.seeds, amplitude, batch.lengths.tolist(), strict=True):
            per_latent = row[:n_frames].reshape(-1, 2).amax(1).numpy()
            clips.append(choose_clips(seed, per_latent, len(per_latent), self.loss.contrast))
        return z_music, clips

    def validate(self, networks: Networks, batch: Batch) -> dict[str, Tensor]:
        """`rec` and `kl` per input element, and `contrast`, NaN for a sample with fewer than two categories."""
        motion = batch["motion"]
        reconstructed = reconstruct(networks["vae"], self.model, batch, motion)
        z_music, clips = self._partners(batch)
        contrast = contrastive_terms(z_music, reconstructed[1], clips, self.loss.contrast.tau)
        alone = torch.tensor([len(chosen) < 2 for chosen in clips], device=contrast.device)
        values = reconstruction_values(batch, motion, reconstructed)
        return {**values, "contrast": contrast.masked_fill(alone, torch.nan)}
