from __future__ import annotations

import pytest
import torch

from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.errors import ConfigError


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.linear()


@pytest.fixture()
def latents() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0, eps = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return z0, torch.tensor([0, 500, 999]), eps


def test_one_noising_step_is_equation_5(schedule: NoiseSchedule) -> None:
    z0 = torch.ones(1, 1, 1, dtype=torch.float64)
    noised = schedule.q_sample(z0, torch.tensor([0]), z0)
    assert noised.item() == pytest.approx((1 - 0.00085) ** 0.5 + 0.00085**0.5)


def test_the_clean_latent_comes_back_from_the_true_noise(schedule, latents) -> None:
    z0, t, eps = latents
    torch.testing.assert_close(schedule.clean_from_eps(schedule.q_sample(z0, t, eps), t, eps), z0)


def test_v_and_eps_are_the_same_prediction(schedule, latents) -> None:
    z0, t, eps = latents
    v = schedule.v_target(z0, t, eps)
    torch.testing.assert_close(schedule.eps_from_v(schedule.q_sample(z0, t, eps), t, v), eps)


def test_the_posterior_mean_of_the_true_noise_is_bayes_rule(schedule, latents) -> None:
    """q(z_{t-1} | z_t, z_0) of DDPM (Ho et al. 2020, Eq. 7), written with z_0 instead of eps."""
    z0, t, eps = latents
    z_t = schedule.q_sample(z0, t, eps)
    mean, variance = schedule.posterior(z_t, t, eps)
    for i, step in enumerate(t.tolist()):
        before = schedule.alpha_bar[step - 1] if step else torch.tensor(1.0, dtype=torch.float64)
        rest = 1 - schedule.alpha_bar[step]
        expected = (
            before.sqrt() * schedule.betas[step] / rest * z0[i]
            + schedule.alphas[step].sqrt() * (1 - before) / rest * z_t[i]
        )
        torch.testing.assert_close(mean[i], expected)
        assert variance[i].item() == pytest.approx(((1 - before) / rest * schedule.betas[step]).item())


def test_latents_keep_their_dtype(schedule, latents) -> None:
    z0, t, eps = (x.float() if x.is_floating_point() else x for x in latents)
    assert schedule.q_sample(z0, t, eps).dtype == torch.float32
    assert all(x.dtype == torch.float32 for x in schedule.posterior(z0, t, eps))


@pytest.mark.parametrize("n", [1, 2, 7, 30, 50, 333, 501, 999, 1000])
def test_any_number_of_ddim_steps_is_exact_ascending_and_reaches_the_noise(schedule, n) -> None:
    steps = schedule.ddim_steps(n)
    assert len(steps) == n == len(set(steps))
    assert steps == sorted(steps)
    assert steps[0] in (0, 1)
    assert schedule.n_steps - 1 >= steps[-1] >= schedule.n_steps - 1 - schedule.n_steps / n


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_a_step_count_the_schedule_lacks_is_refused(schedule, n) -> None:
    with pytest.raises(ConfigError, match="1 to 1000 steps"):
        schedule.ddim_steps(n)


def test_any_number_of_log_snr_steps_is_exact_ascending_and_spans_the_table(schedule) -> None:
    for n in range(1, schedule.n_steps):
        steps = schedule.log_snr_steps(n)
        assert len(steps) == n + 1 == len(set(steps)) and steps == sorted(steps)
        assert (steps[0], steps[-1]) == (0, schedule.n_steps - 1)


def test_log_snr_steps_are_equal_where_the_table_is_fine_enough(schedule) -> None:
    assert torch.equal(schedule.log_snr, schedule.log_snr.sort(descending=True).values)
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    torch.testing.assert_close((2 * schedule.log_snr).exp(), snr)
    for n in (2, 5, 10):
        lengths = -schedule.log_snr[schedule.log_snr_steps(n)].diff()
        even = (schedule.log_snr[0] - schedule.log_snr[-1]).item() / n
        # Rounding moves each end by half a table entry at most: 0.1 of lambda where the second step ends.
        torch.testing.assert_close(lengths, torch.full_like(lengths, even), rtol=0, atol=0.2)


@pytest.mark.parametrize("n", [0, -1, 1000])
def test_a_log_snr_step_count_the_schedule_lacks_is_refused(schedule, n) -> None:
    with pytest.raises(ConfigError, match="1 to 999 steps"):
        schedule.log_snr_steps(n)


def test_a_wrong_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="start"):
        NoiseSchedule.linear(start=0.5, end=0.1)
