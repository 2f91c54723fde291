"""The vocoder's terms by hand."""

from __future__ import annotations

import math

import pytest
import torch

from momu_dist.core.losses.vocoder import discriminator_loss, feature_matching, generator_loss, mel_l1


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(2, 8192, generator=torch.Generator().manual_seed(0)) * 0.2


def test_mel_l1_is_in_natural_logarithms(noise: torch.Tensor) -> None:
    assert mel_l1(noise, noise).item() == 0.0
    assert mel_l1(noise, 0.5 * noise).item() == pytest.approx(math.log(2.0), rel=1e-3)


def test_mel_l1_is_fp32_under_autocast_and_finite_at_silence(noise: torch.Tensor) -> None:
    fake = (0.5 * noise).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mel_l1(noise, fake)
    assert value.dtype == torch.float32 and value.item() == mel_l1(noise, fake.float()).item()
    silence = torch.zeros(2, 8192, requires_grad=True)
    mel_l1(noise, silence).backward()
    assert silence.grad is not None and bool(torch.isfinite(silence.grad).all())


def test_mel_l1_of_a_broken_waveform_is_nan_for_the_loop_to_refuse(noise: torch.Tensor) -> None:
    assert math.isnan(mel_l1(noise, noise * float("nan")).item())


def judgement(*values: float) -> list[torch.Tensor]:
    return [torch.full((2, 1, 3), value) for value in values]


def test_gan_terms_by_hand() -> None:
    real, fake = [judgement(9.0, 0.5), judgement(9.0, 1.0)], [judgement(9.0, 0.25), judgement(9.0, -1.0)]
    assert generator_loss(fake).item() == pytest.approx(0.75**2 + 2.0**2)
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5**2 + 0.25**2 + 0.0 + 1.0)
    perfect = [judgement(0.0, 1.0)], [judgement(0.0, 0.0)]
    assert discriminator_loss(*perfect).item() == 0.0


def test_feature_matching_by_hand_and_without_gradient_to_the_real_side() -> None:
    real, fake = [judgement(1.0, 2.0), judgement(0.0)], [judgement(1.5, 2.0), judgement(-2.0)]
    for layer in [*real[0], *real[1], *fake[0], *fake[1]]:
        layer.requires_grad_()
    value = feature_matching(real, fake)
    assert value.item() == pytest.approx(0.5 + 0.0 + 2.0)
    value.backward()
    assert real[1][0].grad is None and fake[1][0].grad is not None
