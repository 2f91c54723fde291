"""VAE-GAN terms against the reference's loss, whose reduction is `sum` and whose GAN weight is adaptive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from momu_dist.core.losses.vae import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    kl_divergence,
    kl_loss,
    l1_reconstruction,
    r1_penalty,
)
from momu_dist.core.models.discriminator import PatchDiscriminator

# The run that made the numbers (configs/autoencoder1d_kl20_natbig_r1_down2_disc2.yaml of the reference).
_KL_WEIGHT = 1e-6
_R1_WEIGHT = 3.0


class _Case:
    def __init__(self, golden: Any) -> None:
        arrays = {k: torch.from_numpy(v) for k, v in golden.npz("09_vae_loss.npz").items()}
        self.want = golden.json("09_vae_loss.json")
        self.x = arrays["x"]
        self.last = arrays["last"].requires_grad_()
        # The reconstruction is a stand-in decoder: its last layer `last` applied to x, plus what is left.
        rest = (arrays["rec"] - torch.einsum("ij,bjt->bit", self.last, self.x)).detach()
        self.rec = torch.einsum("ij,bjt->bit", self.last, self.x) + rest
        mean, logvar = arrays["moments"].chunk(2, dim=1)
        self.mean, self.logvar = mean, logvar.clamp(-30.0, 20.0)
        weights = {k.removeprefix("disc/"): v for k, v in arrays.items() if k.startswith("disc/")}
        self.disc = PatchDiscriminator(ndf=weights["main.0.weight"].shape[0])
        self.disc.load_state_dict(weights)
        self.disc.eval()

    def grad(self, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, self.last, retain_graph=True)[0]


@pytest.fixture
def case(golden: Any) -> _Case:
    return _Case(golden)


@pytest.mark.parametrize("step", ["gen_step0", "gen_step10"])
def test_generator_step(case: _Case, step: str) -> None:
    want = case.want[step]
    nll = l1_reconstruction(case.x, case.rec, reduction="sum")
    kl = kl_divergence(case.mean, case.logvar).mean()
    g = generator_loss(case.disc(case.rec[:, None]))
    d_weight = adaptive_weight(case.grad(nll), case.grad(g))
    total = nll + _KL_WEIGHT * kl + d_weight * want["disc_factor"] * g
    got = {"nll_loss": nll, "kl_loss": kl, "g_loss": g, "d_weight": d_weight, "total_loss": total}
    for name, value in got.items():
        assert value.item() == pytest.approx(want[name], rel=1e-5), name
    mean_l1 = l1_reconstruction(case.x, case.rec, reduction="mean")
    assert mean_l1.item() == pytest.approx(want["rec_loss"], rel=1e-5)
    summed = kl_loss(case.mean, case.logvar, n_elements=1, reduction="sum")
    assert summed.item() == pytest.approx(want["kl_loss"], rel=1e-5)


@pytest.mark.parametrize(("step", "generator"), [("disc_step0", "gen_step0"), ("disc_step10", "gen_step10")])
def test_discriminator_step(case: _Case, step: str, generator: str) -> None:
    want = case.want[step]
    real_input = case.x[:, None].clone().requires_grad_()
    real, fake = case.disc(real_input), case.disc(case.rec.detach()[:, None])
    r1 = r1_penalty(torch.autograd.grad(real.sum(), real_input, create_graph=True)[0])
    loss = case.want[generator]["disc_factor"] * discriminator_loss(real, fake) + _R1_WEIGHT * r1
    assert real.mean().item() == pytest.approx(want["logits_real"], rel=1e-5)
    assert fake.mean().item() == pytest.approx(want["logits_fake"], rel=1e-5)
    assert r1.item() == pytest.approx(want["r1_prnalty"], rel=1e-5)
    assert loss.item() == pytest.approx(want["disc_loss"], rel=1e-5)
