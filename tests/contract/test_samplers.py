"""What every sampler promises, on Gaussian data, where the ideal denoiser is known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from momu_dist.core import catalog
from momu_dist.core.diffusion.batching import Walkers
from momu_dist.core.diffusion.guidance import ConditionalModel, Walk, classifier_free, cross_guidance
from momu_dist.core.diffusion.samplers import Denoiser, ddim, ddim_step, ddpm, dpm_solver_pp, sample
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.random import randn_each
from momu_dist.errors import ConfigError

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


def end_of(walk: Walk, net: ConditionalModel) -> tuple[Tensor, ...]:
    """The latents of one walk whose networks are all `net`."""
    walkers: Walkers[str] = Walkers({"m2a": net, "a2m": net})
    walkers.join("alone", walk)
    while not (ended := walkers.step()):
        pass
    return ended["alone"]


def run_ddim(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    return sample(ddim(schedule, z_T, n_steps=200), denoiser)


def run_guided(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    """Guidance between two equal branches changes nothing, whatever its scale."""
    assert isinstance(denoiser, Gaussian)
    walk = classifier_free(ddim(schedule, z_T, n_steps=200), "m2a", z_T, 3.0)
    return end_of(walk, denoiser.conditional)[0]


def run_cross(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    assert isinstance(denoiser, Gaussian)
    music, motion = (ddim(schedule, z, n_steps=200) for z in (z_T, z_T.flip(1)))
    return end_of(cross_guidance(music, motion, schedule), denoiser.conditional)[0]


def run_ddpm(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    return sample(ddpm(schedule, z_T, seeds=seeds), denoiser)


def run_dpm(denoiser: Denoiser, schedule: NoiseSchedule, z_T: Tensor, seeds: list[int]) -> Tensor:
    return sample(dpm_solver_pp(schedule, z_T, n_steps=20), denoiser)


SAMPLERS: dict[str, Sampler] = {
    "ddim": run_ddim,
    "ddpm": run_ddpm,
    "dpm++": run_dpm,
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
    seeds = list(range(11, 19))
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
    steps = run(schedule, start([1, 2], 3), n_steps=50, seeds=[1, 2])
    z_0 = sample(steps, Gaussian(schedule), lambda done, total: told.append((done, total)))
    assert z_0.shape == (2, CHANNELS, 3) and told[-1][0] == told[-1][1] == len(told)


def test_ddpm_takes_all_steps_whatever_it_is_told(schedule: NoiseSchedule) -> None:
    few, all_of_them = (
        sample(ddpm(schedule, start([1], 3), n_steps=n, seeds=[1]), Gaussian(schedule)) for n in (2, None)
    )
    assert torch.equal(few, all_of_them)


@pytest.mark.parametrize(
    ("run", "order", "from_the_top"), [(ddim, 1, False), (dpm_solver_pp, 2, True)], ids=["ddim", "dpm++"]
)
def test_the_error_has_the_order_that_is_claimed(
    run: Any, order: int, from_the_top: bool, schedule: NoiseSchedule
) -> None:
    """Against the exact flow from the step each run starts at: half the step, 1 / 2^order of the error.

    On the same curve of log-SNR with a table so fine that rounding to its entries does not count.
    """
    fine = _finer(schedule, 64)
    z_T = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 9)
    counts, errors = [160, 320, 640], []
    for n in counts:
        first = fine.n_steps - 1 if from_the_top else fine.ddim_steps(n)[-1]
        found = sample(run(fine, z_T, n_steps=n), Gaussian(fine))
        errors.append((found - _exact_flow(fine, z_T, first)).abs().max().item())
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.05), dict(zip(counts, errors, strict=True))


def test_on_the_real_table_twenty_steps_of_second_order_beat_many_of_first(schedule: NoiseSchedule) -> None:
    """The exact flow from t = T - 1, where DDIM starts only if it takes 500 steps."""
    z_T = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 9)
    exact = _exact_flow(schedule, z_T, schedule.n_steps - 1)

    def error(run: Any, n: int) -> float:
        return (sample(run(schedule, z_T, n_steps=n), Gaussian(schedule)) - exact).abs().max().item()

    assert error(dpm_solver_pp, 20) < error(ddim, 500)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 15, 20, 50, 500, 999])
def test_dpm_solver_calls_the_network_once_a_step_and_never_twice_at_one(
    schedule: NoiseSchedule, n: int
) -> None:
    ideal, visited = Gaussian(schedule), list[int]()

    def denoiser(z: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,) and t.dtype == torch.int64
        visited.append(int(t[0]))
        return ideal(z, t)

    sample(dpm_solver_pp(schedule, start([1, 2], 3), n_steps=n), denoiser)
    assert len(visited) == n == len(set(visited)) and visited == sorted(visited, reverse=True)
    assert visited[0] == schedule.n_steps - 1 and visited[-1] > 0


def test_the_first_step_of_dpm_solver_is_that_of_ddim(schedule: NoiseSchedule) -> None:
    z_T = start([1], 5).double()
    last = schedule.n_steps - 1
    eps = Gaussian(schedule)(z_T, torch.tensor([last]))
    found = sample(dpm_solver_pp(schedule, z_T, n_steps=1), Gaussian(schedule))
    torch.testing.assert_close(found, ddim_step(schedule, z_T, eps, last, 0))


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_dpm_solver_is_exact_where_the_clean_latent_is_known(schedule: NoiseSchedule, n: int) -> None:
    """The linear part is solved exactly: a true noise stays the true noise, whatever the steps."""
    clean, eps = torch.randn(2, 1, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def denoiser(z: Tensor, t: Tensor) -> Tensor:
        a_bar = schedule.alpha_bar[t].view(-1, 1, 1)
        return (z - a_bar.sqrt() * clean) / (1 - a_bar).sqrt()

    top, bottom = torch.tensor([schedule.n_steps - 1]), torch.tensor([0])
    found = sample(dpm_solver_pp(schedule, schedule.q_sample(clean, top, eps), n_steps=n), denoiser)
    torch.testing.assert_close(found, schedule.q_sample(clean, bottom, eps))


def test_as_many_steps_as_the_table_has_are_refused(schedule: NoiseSchedule) -> None:
    for n in (0, 1000):
        with pytest.raises(ConfigError, match=f"1 to 999 steps, found {n}"):
            sample(dpm_solver_pp(schedule, start([1], 2), n_steps=n), Gaussian(schedule))


def test_ddpm_is_the_affine_map_of_its_noise_that_follows_from_bayes() -> None:
    """So its result is normal with the mean and the variance of `_ancestral_moments`."""
    schedule, seeds = NoiseSchedule.linear(40, 0.01, 0.2), [3, 4]
    z_T = start(seeds, 6).double()
    expected = z_T
    for t, (gain, shift, spread) in _ancestral_steps(schedule):
        noise = randn_each(seeds, (6, CHANNELS), f"ddpm-{t}").transpose(1, 2).double()
        expected = gain * expected + shift + spread * noise
    found = sample(ddpm(schedule, z_T, seeds=seeds), Gaussian(schedule))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_ddpm_has_the_mean_and_the_variance_of_the_recursion(schedule: NoiseSchedule) -> None:
    seeds = [1, 2, 3]
    mean, variance = _ancestral_moments(schedule, 0.0, 1.0)
    z_0 = sample(ddpm(schedule, start(seeds, 2000), seeds=seeds), Gaussian(schedule)).double()
    n = z_0.numel()
    assert z_0.mean().item() == pytest.approx(mean, abs=4 * (variance / n) ** 0.5)
    assert z_0.var().item() == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)


def test_ddpm_keeps_the_mean_and_its_variance_converges() -> None:
    """One forward process in T steps, from its exact marginal: no error of the mean for any T, that of the
    variance is (a log T + b) / T. The posterior variance of Eq. 9 is that of a single clean latent, too small
    for a distribution of them; the steps next to t = 0, whose log-SNR rises by 1 / t, give the logarithm."""
    counts, scaled = [100, 200, 400, 800, 1600], []
    for n in counts:
        schedule = NoiseSchedule.linear(n, 0.85 / n, 12.0 / n)
        last = schedule.alpha_bar[-1].item()
        mean, variance = _ancestral_moments(schedule, last**0.5 * MEAN, last * STD**2 + 1 - last)
        assert mean == pytest.approx(MEAN, abs=1e-10)
        scaled.append(n * (STD**2 - variance))
    rises = np.diff(scaled)  # a log 2 for each doubling of T
    assert (rises > 0).all() and rises[-1] == pytest.approx(rises[-2], rel=0.03)


def test_ddpm_asks_for_one_seed_a_sample(schedule: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match="1 seeds for 2 samples"):
        sample(ddpm(schedule, torch.zeros(2, 1, 4), seeds=[1]), Gaussian(schedule))


def test_progress_is_reported_for_every_step(schedule: NoiseSchedule) -> None:
    seen: list[tuple[int, int]] = []
    for steps in (ddim(schedule, start([1], 2), n_steps=4), ddpm(schedule, start([1], 2), seeds=[1])):
        sample(steps, Gaussian(schedule), lambda i, n: seen.append((i, n)))
    assert seen == [(i, 4) for i in range(1, 5)] + [(i, 1000) for i in range(1, 1001)]


def _exact_flow(schedule: NoiseSchedule, z: Tensor, t: int) -> Tensor:
    """The probability-flow ODE of Gaussian data keeps z's quantile: from the marginal at step t to the one at
    step 0."""

    def moments(step: int) -> tuple[Tensor, Tensor]:
        a_bar = schedule.alpha_bar[step]
        return a_bar.sqrt() * MEAN, (a_bar * STD**2 + 1 - a_bar).sqrt()

    (mean_t, std_t), (mean_0, std_0) = moments(t), moments(0)
    return mean_0 + std_0 * (z - mean_t) / std_t


def _finer(schedule: NoiseSchedule, times: int) -> NoiseSchedule:
    """The same curve of log-SNR between the same ends, with `times` as many entries."""
    entries = (schedule.n_steps - 1) * times + 1
    at = np.linspace(0, schedule.n_steps - 1, entries)
    log_snr = CubicSpline(np.arange(schedule.n_steps), schedule.log_snr.numpy())(at)
    alpha_bar = torch.sigmoid(2 * torch.from_numpy(log_snr))
    alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return NoiseSchedule(1 - alphas, alphas, alpha_bar)


def _ancestral_steps(schedule: NoiseSchedule) -> Iterator[tuple[int, tuple[float, float, float]]]:
    """(t, (gain, shift, spread)) from t = T - 1 down: z_{t-1} = gain z_t + shift + spread noise, for Gaussian data.

    The mean of q(z_{t-1} | z_t, z_0) (Ho et al. 2020, Eq. 7) with E[z_0 | z_t] in the place of z_0.
    """
    a_bar, beta = schedule.alpha_bar.tolist(), schedule.betas.tolist()
    for t in reversed(range(schedule.n_steps)):
        before = a_bar[t - 1] if t else 1.0
        of_clean = before**0.5 * beta[t] / (1 - a_bar[t])
        of_noisy = (1 - beta[t]) ** 0.5 * (1 - before) / (1 - a_bar[t])
        belief = a_bar[t] ** 0.5 * STD**2 / (a_bar[t] * STD**2 + 1 - a_bar[t])
        shift = of_clean * (1 - belief * a_bar[t] ** 0.5) * MEAN
        spread = (beta[t] * (1 - before) / (1 - a_bar[t])) ** 0.5
        yield t, (of_noisy + of_clean * belief, shift, spread)


def _ancestral_moments(schedule: NoiseSchedule, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance after all ancestral steps from a start with those given."""
    for _, (gain, shift, spread) in _ancestral_steps(schedule):
        mean, variance = gain * mean + shift, gain**2 * variance + spread**2
    return mean, variance
