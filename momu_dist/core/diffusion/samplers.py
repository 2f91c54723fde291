"""Samplers: functions from a denoiser, a schedule and a start to a latent; they own no weights.

All are called alike (`Sampler`); a line in `momu_dist.core.catalog.SAMPLERS` gives one a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.random import Seed, randn_each

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(z_t (B, C, L), t (B,) int64) -> eps (B, C, L)."""

OnStep = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all): for progress bars."""


class Sampler(Protocol):
    """z_0 (B, C, L) from the noise `z_T`, in `n_steps` steps; what is random about sample i comes from seeds[i]."""

    def __call__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        z_T: Tensor,
        *,
        n_steps: int,
        seeds: Sequence[Seed],
        on_step: OnStep | None = None,
    ) -> Tensor: ...


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    z_T: Tensor,
    *,
    n_steps: int,
    seeds: Sequence[Seed] = (),
    on_step: OnStep | None = None,
) -> Tensor:
    """z_0 (B, C, L) from the noise `z_T` (B, C, L) in `n_steps` deterministic steps (DDIM, eta 0).

    As in LDM the last step ends at alpha_bar[0], not at 1, so a trace of the predicted noise (variance
    8.5e-4) remains. Draws nothing, so `seeds` play no part. An empty batch gives an empty batch. Raises
    ConfigError for a number of steps that the schedule does not have.
    """
    z = z_T
    for done, (t, t_prev) in enumerate(descending(schedule.ddim_steps(n_steps)), start=1):
        z = ddim_step(schedule, z, denoiser(z, _batch_of(t, z)), t, t_prev)
        if on_step:
            on_step(done, n_steps)
    return z


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    z_T: Tensor,
    *,
    seeds: Sequence[Seed],
    n_steps: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """z_0 (B, C, L) from the noise `z_T` by all T ancestral steps (Eq. 8 and 9), whatever `n_steps` says.

    The noise of sample i at step t is drawn from (seeds[i], "ddpm-<t>") alone, time first, so neither the
    batch nor the padded length changes a sample. For a mix of seeds that noise is mixed as the start is.
    """
    if len(seeds) != len(z_T):
        raise ValueError(f"ddpm needs one seed a sample: found {len(seeds)} seeds for {len(z_T)} samples")
    z = z_T
    _, channels, length = z.shape
    for t in reversed(range(schedule.n_steps)):
        batch_t = _batch_of(t, z)
        z, variance = schedule.posterior(z, batch_t, denoiser(z, batch_t))
        if t > 0:
            noise = randn_each(seeds, (length, channels), f"ddpm-{t}").transpose(1, 2)
            z = z + variance.sqrt() * noise.to(z)
        if on_step:
            on_step(schedule.n_steps - t, schedule.n_steps)
    return z


@torch.no_grad()
def dpm_solver_pp(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    z_T: Tensor,
    *,
    n_steps: int,
    seeds: Sequence[Seed] = (),
    on_step: OnStep | None = None,
) -> Tensor:
    """z_0 (B, C, L) from the noise `z_T` (B, C, L) in `n_steps` steps of second order, one network call each.

    DPM-Solver++(2M), Lu et al. 2022, Algorithm 2: the probability-flow ODE in lambda (half the log-SNR), its
    linear part exact, the clean estimate extrapolated to the middle of the step from this call and the one
    before. The first step has nothing before it and is DDIM's; all others are of second order. So is the
    last, which public implementations make first-order for few steps: theirs, uniform in t, is the longest in
    lambda; ours is not.

    Where we differ: the network takes whole diffusion steps, so the grid is rounded to the table
    (`NoiseSchedule.log_snr_steps`); and like `ddim` the run ends at alpha_bar[0], whose trace of noise
    remains, not at 1. It starts at T - 1. With a table of 1000 the
    error stops falling at some 80 steps (4e-4 on Gaussian data): the coarse end of the table is what is left.

    Draws nothing, so `seeds` play no part. An empty batch gives an empty batch. Raises ConfigError unless
    1 <= n_steps < T.
    """
    alpha, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    log_snr, steps = schedule.log_snr, schedule.log_snr_steps(n_steps)[::-1]
    z, before, h_before = z_T, None, 1.0
    for done, (t, t_next) in enumerate(pairwise(steps), start=1):
        batch_t = _batch_of(t, z)
        clean = schedule.clean_from_eps(z, batch_t, denoiser(z, batch_t))
        h = float(log_snr[t_next] - log_snr[t])
        middle = clean if before is None else clean + h / (2 * h_before) * (clean - before)
        z = float(sigma[t_next] / sigma[t]) * z - float(alpha[t_next]) * math.expm1(-h) * middle
        before, h_before = clean, h
        if on_step:
            on_step(done, n_steps)
    return z


def ddim_step(schedule: NoiseSchedule, z: Tensor, eps: Tensor, t: int, t_prev: int) -> Tensor:
    """z at step `t_prev` (B, C, L) from z at step `t`: the clean estimate that `eps` implies, noised again."""
    clean = schedule.clean_from_eps(z, _batch_of(t, z), eps)
    return schedule.q_sample(clean, _batch_of(t_prev, z), eps)


def descending(steps: Sequence[int]) -> list[tuple[int, int]]:
    """(t, t_prev) pairs from the noisiest step down; the last t_prev is 0 (LDM: alpha_prev = alpha_bar[0])."""
    return list(zip(reversed(steps), [*reversed(steps[:-1]), 0], strict=True))


def _batch_of(t: int, z: Tensor) -> Tensor:
    return torch.full((len(z),), t, dtype=torch.int64, device=z.device)
