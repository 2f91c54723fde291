"""The VAE-GAN's phases: when the discriminator joins, and who gets gradients when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from momu_dist.core.losses.vae import kl_loss, l1_reconstruction
from momu_dist.core.tasks.music_vae import MusicVaeLoss, latent_noise, reconstruct

LOSS = MusicVaeLoss(kl_weight=0.1, gan_weight=0.5, gan_start=0.25, disc_ndf=4, disc_norm="group")


@pytest.fixture
def stage(make_stage: Callable[..., Any]) -> Any:
    return make_stage("music_vae", LOSS)


@pytest.fixture
def batch(stage: Any) -> Any:
    return stage.task.collate(stage.rows((96, 60)), (1, 2))


def test_only_the_vae_before_the_start(stage: Any, batch: Any) -> None:
    phases = list(stage.task.phases(stage.networks, batch, 0.249))
    assert [phase.network for phase in phases] == ["vae"]
    assert set(phases[0].parts) == {"total", "rec", "kl"}


def test_both_networks_from_the_start_on(stage: Any, batch: Any) -> None:
    phases = list(stage.task.phases(stage.networks, batch, 0.25))
    assert [phase.network for phase in phases] == ["vae", "disc"]
    assert set(phases[0].parts) == {"total", "rec", "kl", "gan"} and set(phases[1].parts) == {"disc"}


def test_total_is_equation_10(stage: Any, batch: Any) -> None:
    phase = next(iter(stage.task.phases(stage.networks, batch, 0.5)))
    parts = phase.parts
    assert phase.total.item() == pytest.approx(
        float(parts["rec"] + LOSS.kl_weight * parts["kl"] + LOSS.gan_weight * parts["gan"]), rel=1e-6
    )
    noise = latent_noise(stage.task.model, batch)
    reconstruction, mean, logvar = stage.networks["vae"](batch["mel"], noise, batch.lengths)
    rec = l1_reconstruction(batch["mel"], reconstruction, batch.lengths)
    kl = kl_loss(mean, logvar, batch.lengths // 2, n_elements=batch.lengths * 80)
    assert parts["rec"].item() == pytest.approx(float(rec), rel=1e-6)
    assert parts["kl"].item() == pytest.approx(float(kl), rel=1e-6)


def test_the_generators_phase_leaves_the_discriminator_alone(stage: Any, batch: Any) -> None:
    phases = stage.task.phases(stage.networks, batch, 0.5)
    next(phases).total.backward()
    assert all(parameter.grad is None for parameter in stage.networks["disc"].parameters())
    assert all(parameter.grad is not None for parameter in stage.networks["vae"].parameters())


def test_the_discriminators_phase_leaves_the_vae_alone(stage: Any, batch: Any) -> None:
    phases = stage.task.phases(stage.networks, batch, 0.5)
    next(phases).total.backward()
    before = [parameter.grad.clone() for parameter in stage.networks["vae"].parameters()]
    next(phases).total.backward()
    assert all(parameter.grad is not None for parameter in stage.networks["disc"].parameters())
    for parameter, gradient in zip(stage.networks["vae"].parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_the_gan_reaches_the_vae(make_stage: Callable[..., Any], batch: Any) -> None:
    def gradient(weight: float) -> torch.Tensor:
        stage = make_stage(
            "music_vae", MusicVaeLoss(gan_weight=weight, gan_start=0.0, disc_ndf=4, disc_norm="group")
        )
        next(iter(stage.task.phases(stage.networks, batch, 0.0))).total.backward()
        return torch.cat([p.grad.flatten() for p in stage.networks["vae"].parameters()])

    assert not torch.allclose(gradient(0.0), gradient(1.0))


def test_validation_reports_reconstruction_and_kl(stage: Any, batch: Any) -> None:
    with torch.no_grad():
        values = stage.task.validate(stage.networks, batch)
        phase = next(iter(stage.task.phases(stage.networks, batch, 0.0)))
    assert set(values) == {"rec", "kl"} and all(value.shape == (2,) for value in values.values())
    for name, value in values.items():
        assert float(value.mean()) == pytest.approx(float(phase.parts[name]), rel=1e-5)


def test_sum_reduction_is_the_references(make_stage: Callable[..., Any], stage: Any, batch: Any) -> None:
    """L1 and KL summed over all that is valid, over the batch; validation stays per element."""
    summed = make_stage("music_vae", replace(LOSS, reduction="sum"))
    with torch.no_grad():
        parts = next(iter(summed.task.phases(summed.networks, batch, 0.0))).parts
        reconstruction, mean, logvar = reconstruct(
            stage.networks["vae"], stage.task.model, batch, batch["mel"]
        )
        values, same = (s.task.validate(s.networks, batch) for s in (summed, stage))
    rec = kl = 0.0
    for i, n in enumerate(batch.lengths.tolist()):
        rec += float((reconstruction[i, :, :n] - batch["mel"][i, :, :n]).abs().sum())
        m, v = mean[i, :, : n // 2], logvar[i, :, : n // 2]
        kl += float(0.5 * (m**2 + v.exp() - 1 - v).sum())
    assert parts["rec"].item() == pytest.approx(rec / 2, rel=1e-5)
    assert parts["kl"].item() == pytest.approx(kl / 2, rel=1e-5)
    assert parts["total"].item() == pytest.approx((rec + LOSS.kl_weight * kl) / 2, rel=1e-5)
    for name, value in values.items():
        torch.testing.assert_close(value, same[name])
