"""VAE-GAN terms against the reference's loss, whose reduction is `sum` and whose GAN weight is adaptive."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from momu_dist.core.losses.vae import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    kl_divergence,
    kl_loss,
    l1_reconstruction,
    r1_penalty,
)
from momu_dist.core.models.autoencoder import AutoencoderConfig
from momu_dist.core.models.discriminator import PatchDiscriminator
from momu_dist.core.tasks.base import Batch, Phase, TaskInputs
from momu_dist.core.tasks.music_vae import MusicVaeLoss, MusicVaeTask

# The run that made the numbers (configs/autoencoder1d_kl20_natbig_r1_down2_disc2.yaml of the reference).
_KL_WEIGHT = 1e-6
_R1_WEIGHT = 3.0
_GAN_WEIGHT = 0.5
_START = 0.5  # of the run here; steps 0 and 10 of the reference lie before and after its start


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


class _StandInVae(nn.Module):
    """What the reference's loss saw of a VAE: a decoder's last weight, the reconstruction through it, the moments."""

    def __init__(self, case: _Case) -> None:
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.conv_out = nn.Module()
        self.decoder.conv_out.weight = nn.Parameter(case.last.detach().clone())
        self.case = case
        self.rest = (case.rec - torch.einsum("ij,bjt->bit", case.last, case.x)).detach()

    def forward(self, x: Tensor, noise: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.decoder.conv_out.get_parameter("weight")
        return torch.einsum("ij,bjt->bit", weight, x) + self.rest, self.case.mean, self.case.logvar


def _phases(
    case: _Case, mode: Literal["fixed", "adaptive"], step: str, r1_weight: float
) -> tuple[list[Phase], float]:
    """The phases of the stage's own task with the reference's settings, and its GAN factor at that step."""
    factor = max(case.want[f"gen_step{n}"]["disc_factor"] for n in (0, 10))
    loss = MusicVaeLoss(
        kl_weight=_KL_WEIGHT, gan_weight=_GAN_WEIGHT, gan_weight_mode=mode, gan_start=_START, disc_factor=factor,
        r1_weight=r1_weight, reduction="sum",
    )  # fmt: skip
    n, bands, frames = case.x.shape
    model = AutoencoderConfig(in_channels=bands, z_channels=case.mean.shape[1])
    task = MusicVaeTask(model, loss, TaskInputs((frames, frames)))
    lengths = torch.full((n,), frames)
    batch = Batch(tuple(map(str, range(n))), tuple(range(n)), lengths, {"mel": case.x})
    here = case.want[f"gen_{step}"]["disc_factor"]
    networks = {"vae": _StandInVae(case), "disc": case.disc}
    return list(task.phases(networks, batch, _START if here else 0.0)), here


@pytest.mark.parametrize("step", ["step0", "step10"])
@pytest.mark.parametrize("mode", ["fixed", "adaptive"])
def test_the_stage_computes_the_references_generator_step(
    case: _Case, mode: Literal["fixed", "adaptive"], step: str
) -> None:
    (phase, *_), factor = _phases(case, mode, step, _R1_WEIGHT)
    want = case.want[f"gen_{step}"]
    weight = want["d_weight"] if mode == "adaptive" else _GAN_WEIGHT
    total = want["nll_loss"] + _KL_WEIGHT * want["kl_loss"] + weight * factor * want["g_loss"]
    rounding = 1e-6 * want["nll_loss"]  # of a sum whose terms may cancel
    if mode == "adaptive":
        assert total == pytest.approx(want["total_loss"], rel=1e-6, abs=rounding)
    assert phase.network == "vae" and phase.total.item() == pytest.approx(total, rel=1e-5, abs=rounding)
    got = {"rec": want["nll_loss"], "kl": want["kl_loss"]}
    if factor:
        got |= {"gan": want["g_loss"]} | ({"gan_weight": want["d_weight"]} if mode == "adaptive" else {})
    assert set(phase.parts) == {"total", *got}
    for name, value in got.items():
        assert phase.parts[name].item() == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("step", ["step0", "step10"])
@pytest.mark.parametrize("r1_weight", [0.0, _R1_WEIGHT])
def test_the_stage_computes_the_references_discriminator_step(
    case: _Case, step: str, r1_weight: float
) -> None:
    """Before the start R1 alone is left of it; without R1 there is no such step."""
    (_, *phases), factor = _phases(case, "adaptive", step, r1_weight)
    want = case.want[f"disc_{step}"]
    if not factor and not r1_weight:
        assert not phases
        return
    (phase,) = phases
    total = want["disc_loss"] - (_R1_WEIGHT - r1_weight) * want["r1_prnalty"]
    assert phase.network == "disc" and phase.total.item() == pytest.approx(total, rel=1e-5)
    if r1_weight:
        assert phase.parts["r1"].item() == pytest.approx(want["r1_prnalty"], rel=1e-5)
