"""Terms of the VAE-GAN loss, Eq. 10: reconstruction, KL, generator, discriminator.

`reduction="mean"` (the default): the mean over samples of each sample's own mean over what is valid in it, so that long
samples do not outweigh short ones and a loss does not depend on padding. `"sum"` is the reference's (Make-An-Audio-2,
contperceptual.py): the sum over everything valid, divided by the batch; its adaptive weight belongs to it, since the
paper's fixed weight 0.5 would vanish beside a reconstruction in the thousands.

Lengths count frames, latents or patch columns of the tensor they stand beside; None means that nothing is padded.
Everything is computed in float32 or wider, also under autocast.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from momu_dist.core.models.masked import length_mask

Reduction = Literal["mean", "sum"]

GAN_WEIGHT = 0.5  # lambda_2 of Eq. 10, fixed


def kl_divergence(mean: Tensor, logvar: Tensor, lengths: Tensor | None = None) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)) of each sample (B,), summed over its valid latents; both (B, d, L)."""
    mean, logvar = _wide(mean), _wide(logvar)
    return _sums(0.5 * (mean.square() + logvar.exp() - 1.0 - logvar), lengths)[0]


def kl_loss(
    mean: Tensor,
    logvar: Tensor,
    lengths: Tensor | None = None,
    *,
    n_elements: Tensor | int,
    reduction: Reduction = "mean",
) -> Tensor:
    """KL term of a batch, a scalar.

    mean: each sample's summed KL divided by `n_elements` ((B,) or int: the valid numbers of its input, channels x
    frames), then averaged, so that its weight means the same beside a mean reconstruction; sum: the summed KL / B.
    """
    per_sample = kl_divergence(mean, logvar, lengths)
    return (per_sample / n_elements if reduction == "mean" else per_sample).mean()


def l1_reconstruction(
    x: Tensor, reconstruction: Tensor, lengths: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """L1 distance of `reconstruction` from `x`, both (B, C, T): a scalar.

    The sum is the negative log likelihood of the reference at its log variance 0.
    """
    total, count = _sums((_wide(x) - _wide(reconstruction)).abs(), lengths)
    return (total / count if reduction == "mean" else total).mean()


def generator_loss(logits_fake: Tensor, patches: Tensor | None = None) -> Tensor:
    """Generator's GAN term: minus the mean logit of the reconstructions.

    `logits_fake` (B, 1, f, t), of which the first patches[b] columns belong to sample b. A sample without any column
    counts as 0.
    """
    return -_sample_means(_wide(logits_fake), patches).mean()


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor, patches: Tensor | None = None) -> Tensor:
    """Least-squares loss of the discriminator, 0.5 * (mean (1 - real)^2 + mean fake^2).

    Arguments as in `generator_loss`.
    """
    real = _sample_means((1.0 - _wide(logits_real)).square(), patches)
    fake = _sample_means(_wide(logits_fake).square(), patches)
    return 0.5 * (real + fake).mean()


def adaptive_weight(grad_nll: Tensor, grad_gan: Tensor, weight: float = GAN_WEIGHT) -> Tensor:
    """The reference's GAN weight: weight * clamp(|grad_nll| / (|grad_gan| + 1e-4), 0, 1e4), without gradient.

    The gradients are those of the reconstruction and of the generator's term at the decoder's last weight. The paper
    has the fixed weight instead.
    """
    ratio = _wide(grad_nll).norm() / (_wide(grad_gan).norm() + 1e-4)
    return weight * ratio.clamp(0.0, 1e4).detach()


def real_gradient(real: Tensor, logits_real: Tensor, patches: Tensor | None = None) -> Tensor:
    """Gradient of the summed valid logits at the discriminator's input `real` (B, 1, F, T), of its shape.

    It can be differentiated again, so that a penalty on it reaches the discriminator's weights. `logits_real` as in
    `generator_loss`, computed from `real`, which must require gradients.
    """
    total = _sums(_wide(logits_real), patches)[0].sum()
    (gradient,) = torch.autograd.grad(total, real, create_graph=True)
    return gradient


def r1_penalty(grad_real: Tensor, lengths: Tensor | None = None) -> Tensor:
    """R1, the mean square of `real_gradient` (B, ..., T), a scalar: the mean of each sample's mean over its valid frames."""
    return _sample_means(_wide(grad_real).square(), lengths).mean()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _sums(values: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each sample's sum over what is valid, and how many numbers that is; both (B,), the count at least 1."""
    per_column = math.prod(values.shape[1:-1])
    if lengths is None:
        count = torch.full((values.shape[0],), per_column * values.shape[-1], device=values.device)
    else:
        mask = length_mask(lengths, values.shape[-1]).reshape(
            -1, *(1 for _ in values.shape[1:-1]), values.shape[-1]
        )
        values = values.masked_fill(~mask, 0.0)
        count = lengths * per_column
    return values.flatten(1).sum(dim=1), count.clamp_min(1)


def _sample_means(values: Tensor, lengths: Tensor | None) -> Tensor:
    total, count = _sums(values, lengths)
    return total / count
