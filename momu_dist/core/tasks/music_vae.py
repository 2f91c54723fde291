"""BiCoR-VAE stage 1: the music VAE as a VAE-GAN on mel spectrograms (Eq. 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from momu_dist.core.losses.vae import (
    Reduction,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    kl_divergence,
    kl_loss,
    l1_reconstruction,
    r1_penalty,
    real_gradient,
)
from momu_dist.core.models.autoencoder import LAST_WEIGHT, Autoencoder, AutoencoderConfig
from momu_dist.core.models.discriminator import PatchDiscriminator, patch_lengths
from momu_dist.core.models.masked import length_mask
from momu_dist.core.random import randn_each
from momu_dist.core.ranges import Checked, Count, Weight
from momu_dist.core.tasks.base import Batch, Networks, Phase, Row, TaskInputs, draw_crop, make_batch


@dataclass(frozen=True)
class MusicVaeLoss(Checked):
    """Weights of Eq. 10, and how L1 and KL are reduced (see `core.losses.vae`).

    The defaults are the paper's. Those of the reference (Make-An-Audio-2) are kl_weight 1e-6, gan_weight_mode adaptive,
    disc_factor 2, r1_weight 3 and reduction sum. `adaptive` multiplies `gan_weight` by the ratio of two gradient norms (see
    `adaptive_weight`), taken anew for each micro-batch: like the reference's under data parallelism it is no average
    over the workers or over the accumulated micro-batches. So `train.micro_batch` changes it, the number of workers does not.
    """

    kl_weight: Weight = 1e-5  # lambda_1
    gan_weight: Weight = 0.5  # lambda_2
    gan_weight_mode: Literal["fixed", "adaptive"] = "fixed"
    gan_start: Weight = 0.25  # share of the run after which the discriminator joins (DERIVED)
    disc_factor: Weight = (
        1.0  # of the generator's GAN term and of the discriminator's loss, from gan_start on
    )
    r1_weight: Weight = (
        0.0  # of the penalty on the discriminator's gradient; acts from the first step, as there
    )
    disc_ndf: Count = 64
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
        if adversarial:
            disc.requires_grad_(False)
            logits = disc(reconstruction[:, None], batch.lengths)
            gan = generator_loss(logits, patch_lengths(batch.lengths))
            parts["gan"] = gan
            weight: Tensor | float = self.loss.gan_weight
            if self.loss.gan_weight_mode == "adaptive":
                weight = parts["gan_weight"] = self._adaptive_weight(networks["vae"], rec, gan)
            total = total + weight * self.loss.disc_factor * gan
        yield Phase("vae", total, {"total": total, **parts})
        if adversarial or self.loss.r1_weight:
            disc.requires_grad_(True)
            yield self._disc_phase(disc, batch, reconstruction.detach() if adversarial else None)

    def _adaptive_weight(self, vae: nn.Module, rec: Tensor, gan: Tensor) -> Tensor:
        """Weight of the generator's GAN term by the two terms' gradients at `vae`'s last weight, a scalar."""
        last = last_weight(vae)
        # Not `backward`: nothing is accumulated, and no hook of a wrapper sends half a gradient to the other workers.
        grad_rec, grad_gan = (torch.autograd.grad(term, last, retain_graph=True)[0] for term in (rec, gan))
        return adaptive_weight(grad_rec, grad_gan, self.loss.gan_weight)

    def _disc_phase(self, disc: nn.Module, batch: Batch, fake: Tensor | None) -> Phase:
        """The discriminator's turn on the real mel and on `fake` (B, 80, T); None before the start, when R1 alone acts."""
        patches = patch_lengths(batch.lengths)
        real = batch["mel"][:, None].detach().requires_grad_(self.loss.r1_weight > 0)
        logits_real = disc(real, batch.lengths)
        total = logits_real.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        if fake is not None:
            logits_fake = disc(fake[:, None], batch.lengths)
            parts["disc"] = discriminator_loss(logits_real, logits_fake, patches)
            total = total + self.loss.disc_factor * parts["disc"]
        if self.loss.r1_weight:
            parts["r1"] = r1_penalty(real_gradient(real, logits_real, patches), batch.lengths)
            total = total + self.loss.r1_weight * parts["r1"]
        return Phase("disc", total, parts)

    def validate(self, networks: Networks, batch: Batch) -> dict[str, Tensor]:
        reconstructed = reconstruct(networks["vae"], self.model, batch, batch["mel"])
        return reconstruction_values(batch, batch["mel"], reconstructed)


def last_weight(vae: nn.Module) -> nn.Parameter:
    """Return the decoder's last weight of `vae`, wrapped or not: a wrapper only puts a prefix before a parameter's name."""
    (found,) = (p for name, p in vae.named_parameters() if f".{name}".endswith(f".{LAST_WEIGHT}"))
    return found


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
