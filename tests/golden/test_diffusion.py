"""The diffusion maths against Make-An-Audio-2's tables and a direct run of Algorithm 2 (golden 07)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from momu_dist.core.diffusion.batching import Walkers
from momu_dist.core.diffusion.guidance import cross_guidance
from momu_dist.core.diffusion.samplers import ddim, descending
from momu_dist.core.diffusion.schedule import NoiseSchedule

GUIDANCE = 3.0  # the scale the golden run used (its README)


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, np.ndarray]:
    return golden.npz("07_diffusion.npz")


@pytest.fixture(scope="module")
def facts(golden: Any) -> dict[str, Any]:
    return golden.json("07_diffusion.json")


@pytest.fixture(scope="module")
def schedule(arrays: dict[str, np.ndarray]) -> NoiseSchedule:
    betas = arrays["betas"]
    return NoiseSchedule.linear(len(betas), float(betas[0]), float(betas[-1]))


def test_the_tables_equal_the_reference(
    arrays: dict[str, np.ndarray], facts: dict[str, Any], schedule: NoiseSchedule
) -> None:
    np.testing.assert_allclose(schedule.betas.numpy(), arrays["betas"], rtol=1e-12)
    np.testing.assert_allclose(schedule.alpha_bar.numpy(), arrays["alphas_cumprod"], rtol=1e-12)
    np.testing.assert_allclose(schedule.alphas.numpy(), 1 - arrays["betas"], rtol=1e-12)
    first = facts["alphas_cumprod_first"]
    np.testing.assert_allclose(schedule.alpha_bar[: len(first)].numpy(), first, rtol=1e-12)
    assert schedule.alpha_bar[-1].item() == pytest.approx(facts["alphas_cumprod_last"], rel=1e-12)


def test_the_default_schedule_is_the_reference_one(arrays: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(NoiseSchedule.linear().betas.numpy(), arrays["betas"], rtol=1e-12)


def test_the_ddim_grid_equals_the_reference(
    arrays: dict[str, np.ndarray], facts: dict[str, Any], schedule: NoiseSchedule
) -> None:
    expected = arrays["ddim_timesteps_50"]
    steps = schedule.ddim_steps(len(expected))
    assert steps == expected.tolist()
    first, second, last = facts["ddim_first_last"]
    assert (steps[0], steps[1], steps[-1]) == (first, second, last)
    pairs = descending(steps)
    now = schedule.alpha_bar[[t for t, _ in pairs]].flip(0).numpy()
    before = schedule.alpha_bar[[t_prev for _, t_prev in pairs]].flip(0).numpy()
    np.testing.assert_allclose(now, arrays["ddim_alphas"], rtol=1e-12)
    np.testing.assert_allclose(before, arrays["ddim_alphas_prev"], rtol=1e-12)
    assert not arrays["ddim_sigmas"].any(), "the golden run is deterministic (eta 0)"


def test_posterior_equals_equation_9(facts: dict[str, Any], schedule: NoiseSchedule) -> None:
    tables = {key: value for key, value in facts.items() if key.startswith("eq9_")}
    assert tables
    for name, values in tables.items():
        z_t, eps = (_number(part) for part in name.removeprefix("eq9_z").split("_eps_"))
        checked = 0
        for step, expected in values.items():
            if step.isdigit():
                mean, variance = schedule.posterior(_scalar(z_t), torch.tensor([int(step) - 1]), _scalar(eps))
                assert [mean.item(), variance.item()] == pytest.approx(expected, rel=1e-10, abs=1e-15)
                checked += 1
        assert checked


def test_cross_guided_steps_and_joint_results(
    arrays: dict[str, np.ndarray], facts: dict[str, Any], schedule: NoiseSchedule
) -> None:
    counts = {
        key.removeprefix("n_cross_steps_gamma_"): n
        for table in facts.values()
        if isinstance(table, dict)
        for key, n in table.items()
        if key.startswith("n_cross_steps_gamma_")
    }
    assert set(counts) == {key.removeprefix("joint_a_") for key in arrays if key.startswith("joint_a_")}
    n_steps = len(arrays["ddim_timesteps_50"])
    eps_a = ToyNetwork(0.4, arrays["Wa"], arrays["Ca"], schedule.n_steps)
    eps_m = ToyNetwork(0.5, arrays["Wm"], arrays["Cm"], schedule.n_steps)
    z_a, z_m = (torch.from_numpy(arrays[key])[None] for key in ("za_T", "zm_T"))
    for gamma, n_cross in counts.items():
        eps_a.n_conditional = eps_m.n_conditional = 0
        music, motion = (ddim(schedule, z, n_steps=n_steps) for z in (z_a, z_m))
        walkers: Walkers[str] = Walkers({"m2a": eps_a, "a2m": eps_m})
        walkers.join("joint", cross_guidance(music, motion, schedule, float(gamma), GUIDANCE))
        while not (ended := walkers.step()):
            pass
        out_a, out_m = ended["joint"]
        np.testing.assert_allclose(out_a[0].numpy(), arrays[f"joint_a_{gamma}"], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(out_m[0].numpy(), arrays[f"joint_m_{gamma}"], rtol=1e-8, atol=1e-8)
        assert eps_a.n_conditional == eps_m.n_conditional == n_cross


class ToyNetwork:
    """The golden run's linear denoiser: eps = own z + (t / T) W z + C condition, a null condition being zero."""

    def __init__(self, own: float, w: np.ndarray, c: np.ndarray, n_steps: int) -> None:
        self.own, self.w, self.c, self.n_steps = own, torch.from_numpy(w), torch.from_numpy(c), n_steps
        self.n_conditional = 0

    def __call__(
        self, z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /
    ) -> Tensor:
        self.n_conditional += int((~drop).sum())
        kept = torch.where(drop.view(-1, 1, 1), torch.zeros_like(condition), condition)
        time = t.to(z).view(-1, 1, 1) / self.n_steps
        return self.own * z + time * (self.w @ z) + self.c @ kept


def _number(text: str) -> float:
    """0.7 from "0p7", -0.3 from "m0p3": how the golden file writes numbers into its keys."""
    return float(text.replace("m", "-").replace("p", "."))


def _scalar(value: float) -> Tensor:
    return torch.full((1, 1, 1), value, dtype=torch.float64)
