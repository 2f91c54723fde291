"""BiCoR-VAE stage 1: the music VAE as a VAE-GAN on mel spectrograms (Eq. 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from momu_dist.core.losses.vae import (
    Reduction,
    discriminator_loss,
    generator_loss,
    kl_divergence,
    kl_loss,
    l1_reconstruction,
)
from momu_dist.core.models.autoencoder import Autoencoder, AutoencoderConfig
from momu_dist.core.models.discriminator import PatchDiscriminator, patch_lengths
from momu_dist.core.models.masked import length_mask
from momu_dist.core.random import randn_each
from momu_dist.core.tasks.base import Batch, Networks, Phase, Row, TaskInputs, draw_crop, make_batch


@dataclass(frozen=True)
class MusicVaeLoss:
    """Weights of Eq. 10, and how L1 and KL are reduced (see `core.losses.vae`)."""

    kl_weight: float = 1e-5  # lambda_1
    gan_weight: float = 0.5  # lambda_2
    gan_start: float = 0.25  # share of the run after which the discriminator joins (DERIVED)
    disc_ndf: int = 64
    disc_norm: Literal["batch", "group"] = "batch"
    # `sum` is the reference's: its reconstruction is in the thousands and drowns the GAN term (about 0.1) at the
    # paper's fixed weight.
    reduction: Reduction = "mean"


class MusicVaeTask:
    """Trains `vae` against `disc`. Rows hold mel (80, T), log10 values."""

    columns: tuple[str, ...] = ("mel",)

    def __init__(self, model: AutoencoderConfig, loss: MusicVaeLoss, inputs: TaskInputs) -> None:
        self.model = model
        self.loss = loss
        self.inputs = inputs

    def networks(self) -> dict[str, nn.Module]:
        disc = PatchDiscriminator(ndf=self.loss.disc_ndf, norm=self.loss.disc_norm)
        return {"vae": Autoencoder(self.model), "disc": disc}

    def to(self, device: torch.device) -> None:
        """Nothing is frozen in this stage."""

    def collate(self, rows: Sequence[Row], seeds: Sequence[int]) -> Batch:
        crops = []
        for row, seed in zip(rows, seeds, strict=True):
            start, stop = draw_crop(seed, row["mel"].shape[-1], *self.inputs.length_frames)
            crops.append({"mel": row["mel"][:, start:stop]})
        return make_batch(rows, seeds, crops)

    def phases(self, networks: Networks, batch: Batch, progress: float) -> Iterator[Phase]:
        mel, disc = batch["mel"], networks["disc"]
        reconstructed = reconstruct(networks["vae"], self.model, batch, mel)
        reconstruction = reconstructed[0]
        rec, kl = vae_terms(batch, mel, reconstructed, self.loss.reduction)
        total = rec + self.loss.kl_weight * kl
        parts = {"rec": rec, "kl": kl}
        adversarial = progress >= self.loss.gan_start
        patches = patch_lengths(batch.lengths)
        if adversarial:
            disc.requires_grad_(False)
            gan = generator_loss(disc(reconstruction[:, None], batch.lengths), patches)
            total = total + self.loss.gan_weight * gan
            parts["gan"] = gan
        yield Phase("vae", total, {"total": total, **parts})
        if adversarial:
            disc.requires_grad_(True)
            real = disc(mel[:, None], batch.lengths)
            fake = disc(reconstruction.detach()[:, None], batch.lengths)
            d_loss = discriminator_loss(real, fake, patches)
            yield Phase("disc", d_loss, {"disc": d_loss})

    def validate(self, networks: Networks, batch: Batch) -> dict[str, Tensor]:
        reconstructed = reconstruct(networks["vae"], self.model, batch, batch["mel"])
        return reconstruction_values(batch, batch["mel"], reconstructed)


Reconstructed = tuple[Tensor, Tensor, Tensor]
"""What a VAE makes of its input: reconstruction (B, C, T), mean and logvar (B, z_channels, L)."""


def reconstruct(vae: nn.Module, model: AutoencoderConfig, batch: Batch, x: Tensor) -> Reconstructed:
    """Return what `vae` makes of `x` (B, C, T), each sample's posterior drawn with its own noise."""
    reconstructed: Reconstructed = vae(x, latent_noise(model, batch).to(x), batch.lengths)
    return reconstructed


def vae_terms(
    batch: Batch, x: Tensor, reconstructed: Reconstructed, reduction: Reduction
) -> tuple[Tensor, Tensor]:
    """Return the L1 and the KL term of a batch, two scalars."""
    reconstruction, mean, logvar = reconstructed
    n_elements = batch.lengths * x.shape[1]
    rec = l1_reconstruction(x, reconstruction, batch.lengths, reduction)
    return rec, kl_loss(mean, logvar, batch.lengths // 2, n_elements=n_elements, reduction=reduction)


def reconstruction_values(batch: Batch, x: Tensor, reconstructed: Reconstructed) -> dict[str, Tensor]:
    """Return each sample's own L1 and KL (B,), both per input element whatever the loss's reduction."""
    reconstruction, mean, logvar = reconstructed
    mask = length_mask(batch.lengths, x.shape[-1])[:, None]
    n_elements = batch.lengths * x.shape[1]
    rec = ((reconstruction.float() - x).abs() * mask).sum((1, 2)) / n_elements
    return {"rec": rec, "kl": kl_divergence(mean, logvar, batch.lengths // 2) / n_elements}


def latent_noise(model: AutoencoderConfig, batch: Batch) -> Tensor:
    """Return the noise (B, z_channels, L) of each sample's posterior draw."""
    n_latents = int(batch.lengths.max()) // 2
    return randn_each(batch.seeds, (n_latents, model.z_channels), "vae").transpose(1, 2)
