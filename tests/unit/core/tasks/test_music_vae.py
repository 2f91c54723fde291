"""The VAE-GAN's phases: when the discriminator joins, and who gets gradients when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import nn

from momu_dist.core.losses.vae import kl_loss, l1_reconstruction
from momu_dist.core.tasks.music_vae import MusicVaeLoss, last_weight, latent_noise, reconstruct

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


ADAPTIVE = replace(LOSS, gan_weight_mode="adaptive", r1_weight=3.0, disc_factor=2.0)


class Wrapper(nn.Module):
    """What a data-parallel engine makes of a network: the same behind a prefix."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.module = net

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)


@pytest.mark.parametrize("wrap", [lambda net: net, Wrapper, lambda net: Wrapper(Wrapper(net))])
def test_the_last_weight_is_found_through_any_wrapper(stage: Any, wrap: Callable[..., nn.Module]) -> None:
    vae = stage.networks["vae"]
    assert last_weight(wrap(vae)) is vae.decoder.conv_out.weight


@pytest.mark.parametrize("wrap", [lambda net: net, Wrapper])
def test_the_adaptive_weight_balances_the_gradients_of_the_last_weight(
    make_stage: Callable[..., Any], batch: Any, wrap: Callable[..., nn.Module]
) -> None:
    """The weighted GAN term pulls at it gan_weight x disc_factor times as hard as the reconstruction."""
    stage = make_stage("music_vae", replace(ADAPTIVE, kl_weight=0.0))
    last = stage.networks["vae"].decoder.conv_out.weight
    networks = {**stage.networks, "vae": wrap(stage.networks["vae"])}
    phase = next(iter(stage.task.phases(networks, batch, 0.5)))
    assert all(p.grad is None for net in networks.values() for p in net.parameters()), "asking left a trace"
    gan = phase.parts["gan_weight"] * 2.0 * phase.parts["gan"]
    pulls = [torch.autograd.grad(term, last, retain_graph=True)[0] for term in (phase.parts["rec"], gan)]
    assert float(pulls[1].norm() / pulls[0].norm()) == pytest.approx(0.5 * 2.0, rel=0.05)  # 1e-4 in the ratio
    assert not phase.parts["gan_weight"].requires_grad
    torch.testing.assert_close(phase.total, phase.parts["rec"] + gan)
    phase.total.backward()
    torch.testing.assert_close(last.grad, sum(pulls))


def test_r1_alone_trains_the_discriminator_before_the_start(
    make_stage: Callable[..., Any], batch: Any
) -> None:
    stage = make_stage("music_vae", ADAPTIVE)
    generator, disc = stage.task.phases(stage.networks, batch, 0.0)
    assert set(generator.parts) == {"total", "rec", "kl"} and set(disc.parts) == {"r1"}
    assert disc.total.item() == pytest.approx(3.0 * disc.parts["r1"].item())
    disc.total.backward()
    reached = [p for p in stage.networks["disc"].parameters() if p.grad is not None and p.grad.any()]
    assert len(reached) > 1


def test_r1_of_a_batch_is_the_mean_of_its_samples_alone(make_stage: Callable[..., Any]) -> None:
    """Padding changes nothing (the discriminator's norm looks at one sample)."""
    stage = make_stage("music_vae", ADAPTIVE)
    rows = stage.rows((96, 60))

    def r1(*chosen: int) -> float:
        batch = stage.task.collate([rows[i] for i in chosen], [1 + i for i in chosen])
        _, disc = stage.task.phases(stage.networks, batch, 0.0)
        return float(disc.parts["r1"].detach())

    assert r1(0, 1) == pytest.approx((r1(0) + r1(1)) / 2, rel=1e-4)
    assert abs(r1(0) / r1(1) - 1) > 1e-3, "the samples should differ for this to say anything"


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_adaptive_weight_and_r1_hold_under_bf16(
    make_stage: Callable[..., Any], batch: Any, norm: Literal["batch", "group"]
) -> None:
    stage = make_stage("music_vae", replace(ADAPTIVE, disc_norm=norm))
    found = []
    for on in (False, True):
        phases = stage.task.phases(stage.networks, batch, 0.5)
        values: dict[str, float] = {}
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
                phase = next(phases)
            phase.total.backward()
            values |= {name: float(value.detach()) for name, value in phase.parts.items()}
        found.append(values)
    for name in ("gan_weight", "r1"):
        assert found[1][name] == pytest.approx(found[0][name], rel=0.05), name
