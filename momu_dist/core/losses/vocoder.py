"""Terms of the vocoder's loss: mel distance, feature matching, least-squares GAN (HiFi-GAN, BigVGAN).

Source: HiFi-GAN (Kong et al., 2020), Eq. 1-6; NVIDIA/BigVGAN `loss.py`, `train.py`. A judgement is what one discriminator
makes of a batch (`core.models.wave_discriminator`). Everything is computed in float32, also under autocast. All samples of a
batch have the same length, so a mean over the batch is the mean of its samples' means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from momu_dist.core.audio.mel import log_mel_unchecked

Judgements = Sequence[Sequence[Tensor]]

_LN10 = math.log(10.0)


def mel_l1(real: Tensor, fake: Tensor) -> Tensor:
    """Mean absolute difference of the natural-log mels of two waveforms, both (B, n) at 16 kHz: a scalar.

    Our mels are log10; the difference is multiplied by ln 10, so that the weight 45 means here what it means in HiFi-GAN
    and BigVGAN, whose mels are natural logarithms. The bands are our 80 up to 8 kHz, the whole spectrum as there.
    """
    with _in_fp32(fake):
        return _LN10 * (log_mel_unchecked(real.float()) - log_mel_unchecked(fake.float())).abs().mean()


def feature_matching(real: Judgements, fake: Judgements) -> Tensor:
    """Sum over discriminators and layers of the mean absolute difference of their features: a scalar.

    The logits count as the last layer, as in the reference; its factor 2 is a weight of the task.
    """
    pairs = [
        (r, f) for reals, fakes in zip(real, fake, strict=True) for r, f in zip(reals, fakes, strict=True)
    ]
    return torch.stack([(r.detach().float() - f.float()).abs().mean() for r, f in pairs]).sum()


def generator_loss(fake: Judgements) -> Tensor:
    """Sum over discriminators of the mean (1 - logit)^2 of what the generator made: a scalar."""
    return torch.stack([(1.0 - judgement[-1].float()).square().mean() for judgement in fake]).sum()


def discriminator_loss(real: Judgements, fake: Judgements) -> Tensor:
    """Sum over discriminators of mean (1 - real logit)^2 + mean (fake logit)^2: a scalar."""
    of_real = torch.stack([(1.0 - judgement[-1].float()).square().mean() for judgement in real]).sum()
    of_fake = torch.stack([judgement[-1].float().square().mean() for judgement in fake]).sum()
    return of_real + of_fake


def _in_fp32(like: Tensor) -> torch.autocast:
    # A mel in bfloat16 has two digits: its logarithm would be noise where the music is quiet.
    return torch.autocast(like.device.type, enabled=False)
