"""What every sampler promises, on Gaussian data, where the ideal denoiser is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from momu_dist.core import catalog
from momu_dist.core.diffusion.guidance import classifier_free, cross_guidance
from momu_dist.core.diffusion.samplers import Denoiser, ddim, ddpm
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.random import randn_each

MEAN, STD = 0.7, 0.4
CHANNELS = 2
Sampler = Callable[[Denoiser, NoiseSchedule, Tensor, list[int]], Tensor]


class Gaussian:
    """The ideal network for latents drawn from N(MEAN, STD^2): eps = sqrt(1 - abar) (z - sqrt(abar) MEAN) /
    Var z_t."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        a_bar = self.schedule.alpha_bar[t].to(z).view(-1, 1, 1)
        return (1 - a_bar).sqrt() * (z - a_bar.sqrt() * MEAN) / (a_bar * STD**2 + 1 - a_bar)

    def conditional(
        self, z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /
    ) -> Tensor:
        return self(z, t)


def run_ddim(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    return ddim(denoiser, schedule, z_T, n_steps=200)


def run_guided(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    """Guidance between two equal branches changes nothing, whatever its scale."""
    assert isinstance(denoiser, Gaussian)
    return ddim(classifier_free(denoiser.conditional, z_T, 3.0), schedule, z_T, n_steps=200)


def run_cross(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    assert isinstance(denoiser, Gaussian)
    net = denoiser.conditional
    return cross_guidance(net, net, schedule, z_T, z_T.flip(1), n_steps=200)[0]


def run_ddpm(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    return ddpm(denoiser, schedule, z_T, seeds=seeds)


SAMPLERS: dict[str, Sampler] = {
    "ddim": run_ddim,
    "ddpm": run_ddpm,
    "guided": run_guided,
    "cross": run_cross,
}


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.linear()


@pytest.fixture(scope="module", params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return SAMPLERS[request.param]


def start(seeds: list[int], length: int) -> Tensor:
    return randn_each(seeds, (length, CHANNELS), "start").transpose(1, 2)


def test_mean_and_deviation_are_those_of_the_data(sampler: Sampler, schedule: NoiseSchedule) -> None:
    seeds = [1, 2, 3]
    z_0 = sampler(Gaussian(schedule), schedule, start(seeds, 2000), seeds).double()
    error = STD / z_0.numel() ** 0.5  # standard error of the mean; that of the deviation is smaller
    # Beside chance: alpha_bar ends at 0.0047, not 0 (starting from N(0, 1) loses 0.0047 of the mean's
    # square), and a deterministic run of 200 steps has a first-order error of about 1 %.
    assert abs(z_0.mean().item() - MEAN) < 4 * error + 0.02
    assert abs(z_0.std().item() - STD) < 4 * error + 0.01


def test_a_sample_is_the_same_alone_and_in_a_batch(sampler: Sampler, schedule: NoiseSchedule) -> None:
    seeds = [11, 12, 13, 14]
    together = sampler(Gaussian(schedule), schedule, start(seeds, 5), seeds)
    for i, seed in enumerate(seeds):
        alone = sampler(Gaussian(schedule), schedule, start([seed], 5), [seed])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)


def test_a_longer_sample_starts_as_the_shorter_one(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """For a denoiser that looks at one frame at a time, as padding must not reach the noise."""
    short, long = (sampler(Gaussian(schedule), schedule, start([5], n), [5]) for n in (4, 9))
    torch.testing.assert_close(long[..., :4], short, rtol=0, atol=1e-6)


def test_the_start_is_left_alone_and_an_empty_batch_is_empty(
    sampler: Sampler, schedule: NoiseSchedule
) -> None:
    z_T = start([5], 4)
    before = z_T.clone()
    sampler(Gaussian(schedule), schedule, z_T, [5])
    assert torch.equal(z_T, before)
    assert sampler(Gaussian(schedule), schedule, z_T[:0], []).shape == (0, CHANNELS, 4)


def test_every_sampler_of_the_catalog_is_held_to_these_promises() -> None:
    assert set(catalog.SAMPLERS) <= set(SAMPLERS)


@pytest.mark.parametrize("name", catalog.SAMPLERS)
def test_samplers_of_the_catalog_are_called_alike(name: str, schedule: NoiseSchedule) -> None:
    run = catalog.SAMPLERS[name]
    told: list[tuple[int, int]] = []
    z_0 = run(
        Gaussian(schedule), schedule, start([1, 2], 3), n_steps=50, seeds=[1, 2],
        on_step=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert z_0.shape == (2, CHANNELS, 3) and told[-1][0] == told[-1][1] == len(told)


def test_ddpm_takes_all_steps_whatever_it_is_told(schedule: NoiseSchedule) -> None:
    few, all_of_them = (
        ddpm(Gaussian(schedule), schedule, start([1], 3), n_steps=n, seeds=[1]) for n in (2, None)
    )
    assert torch.equal(few, all_of_them)


def test_ddim_error_is_of_first_order(schedule: NoiseSchedule) -> None:
    """Against the exact flow from the step each run starts at: half the step, half the error."""
    z_T = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 9)
    counts = [20, 40, 100, 200]
    errors = [
        (
            ddim(Gaussian(schedule), schedule, z_T, n_steps=n)
            - _exact_flow(schedule, z_T, schedule.ddim_steps(n)[-1])
        )
        .abs()
        .max()
        .item()
        for n in counts
    ]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.15), dict(zip(counts, errors, strict=True))


def test_ddpm_asks_for_one_seed_a_sample(schedule: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match="1 seeds for 2 samples"):
        ddpm(Gaussian(schedule), schedule, torch.zeros(2, 1, 4), seeds=[1])


def test_progress_is_reported_for_every_step(schedule: NoiseSchedule) -> None:
    seen: list[tuple[int, int]] = []
    ddim(Gaussian(schedule), schedule, start([1], 2), n_steps=4, on_step=lambda i, n: seen.append((i, n)))
    ddpm(Gaussian(schedule), schedule, start([1], 2), seeds=[1], on_step=lambda i, n: seen.append((i, n)))
    assert seen == [(i, 4) for i in range(1, 5)] + [(i, 1000) for i in range(1, 1001)]


def _exact_flow(schedule: NoiseSchedule, z: Tensor, t: int) -> Tensor:
    """The probability-flow ODE of Gaussian data keeps z's quantile: from the marginal at step t to the one at
    step 0."""

    def moments(step: int) -> tuple[Tensor, Tensor]:
        a_bar = schedule.alpha_bar[step]
        return a_bar.sqrt() * MEAN, (a_bar * STD**2 + 1 - a_bar).sqrt()

    (mean_t, std_t), (mean_0, std_0) = moments(t), moments(0)
    return mean_0 + std_0 * (z - mean_t) / std_t
