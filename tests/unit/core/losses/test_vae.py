"""VAE-GAN terms by hand; the reference's numbers are in tests/golden/test_vae_loss.py."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from momu_dist.core.losses.vae import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    kl_divergence,
    kl_loss,
    l1_reconstruction,
    r1_penalty,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_kl_is_that_of_the_normal_distributions() -> None:
    mean, logvar = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    want = torch_kl(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mean, logvar), want.sum((1, 2)))
    lengths = torch.tensor([5, 2, 0])
    masked = torch.stack([want[0].sum(), want[1, :, :2].sum(), torch.tensor(0.0)])
    torch.testing.assert_close(kl_divergence(mean, logvar, lengths), masked)
    n_elements = torch.tensor([100, 40, 10])
    torch.testing.assert_close(
        kl_loss(mean, logvar, lengths, n_elements=n_elements), (masked / n_elements).mean()
    )
    torch.testing.assert_close(
        kl_loss(mean, logvar, lengths, n_elements=n_elements, reduction="sum"), masked.mean()
    )


def test_reconstruction_is_the_mean_of_each_samples_own_mean() -> None:
    x, y = torch.zeros(2, 2, 4), torch.ones(2, 2, 4)
    y[1] = 3.0
    y[1, :, 1:] = float("nan")
    lengths = torch.tensor([4, 1])
    assert l1_reconstruction(x, y, lengths).item() == pytest.approx((1.0 + 3.0) / 2)
    assert l1_reconstruction(x, y, lengths, reduction="sum").item() == pytest.approx((8 * 1.0 + 2 * 3.0) / 2)


def test_reconstruction_sends_no_gradient_into_padding() -> None:
    y = torch.randn(2, 2, 4, requires_grad=True)
    l1_reconstruction(torch.zeros(2, 2, 4), y, torch.tensor([4, 1])).backward()
    assert y.grad is not None
    assert y.grad[1, :, 1:].abs().max() == 0
    assert y.grad[0].abs().sum() == pytest.approx(y.grad[1].abs().sum().item())


def test_gan_terms_count_a_samples_own_patches() -> None:
    real = torch.tensor([[1.0, 0.0, 9.0], [0.5, 7.0, 9.0]])[:, None, None]
    fake = torch.tensor([[2.0, 0.0, 9.0], [-1.0, 7.0, 9.0]])[:, None, None]
    patches = torch.tensor([2, 1])
    assert generator_loss(fake, patches).item() == pytest.approx(-(1.0 - 1.0) / 2)
    want = 0.5 * ((0.5 + 0.25) / 2 + (2.0 + 1.0) / 2)
    assert discriminator_loss(real, fake, patches).item() == pytest.approx(want)
    assert generator_loss(fake, torch.tensor([2, 0])).item() == pytest.approx(-0.5)
    assert generator_loss(fake).item() == pytest.approx(-float(fake.mean()))


def test_adaptive_weight_is_a_clamped_ratio_without_gradient() -> None:
    nll, gan = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor([0.5, 0.0])
    got = adaptive_weight(nll, gan)
    assert got.item() == pytest.approx(0.5 * 5.0 / (0.5 + 1e-4))
    assert not got.requires_grad
    assert adaptive_weight(nll, torch.zeros(2)).item() == pytest.approx(0.5 * 1e4)
    assert adaptive_weight(torch.zeros(2), gan, weight=2.0).item() == 0.0


def test_r1_is_a_mean_square() -> None:
    assert r1_penalty(torch.tensor([[1.0, -3.0]])).item() == 5.0


def test_terms_are_float32_under_bfloat16() -> None:
    x, y = torch.randn(2, 4, 300).bfloat16(), torch.randn(2, 4, 300).bfloat16()
    assert l1_reconstruction(x, y).dtype == torch.float32
    torch.testing.assert_close(l1_reconstruction(x, y), (x.float() - y.float()).abs().mean())
    assert kl_divergence(x, y).dtype == generator_loss(x[:, None]).dtype == torch.float32
