"""Samplers: walks from noise to a latent, one network evaluation a step; they own no weights.

A sampler says where it stands (`Point`) and is sent the noise that is predicted there; who predicts it, for one latent or
for many that stand at different steps, is not its business. `sample` is the simplest answer: one denoiser, one batch.
All are made alike (`Sampler`); a line in `momu_dist.core.catalog.SAMPLERS` gives one a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Point:
    """Latents z_t (B, C, L) at diffusion step `t`, after `done` of `n_steps` sampling steps."""

    z: Tensor
    t: int
    done: int
    n_steps: int

    @property
    def t_of_batch(self) -> Tensor:
        """`t` for each latent of the batch, (B,) int64."""
        return _batch_of(self.t, self.z)


Steps = Generator[Point, Tensor, Tensor]
"""Yields points, is sent eps (B, C, L) at each, and returns z_0 (B, C, L)."""


class Sampler(Protocol):
    """The steps from the noise `z_T` (B, C, L) to z_0; what is random about sample i comes from seeds[i]."""

    def __call__(
        self, schedule: NoiseSchedule, z_T: Tensor, *, n_steps: int, seeds: Sequence[Seed]
    ) -> Steps: ...


@torch.no_grad()
def sample(steps: Steps, denoiser: Denoiser, on_step: OnStep | None = None) -> Tensor:
    """z_0 (B, C, L): the end of `steps` where `denoiser` predicts the noise."""
    at: Point | Tensor = next(steps)
    while isinstance(at, Point):
        eps = denoiser(at.z, at.t_of_batch)
        if on_step:
            on_step(at.done + 1, at.n_steps)
        at = advance(steps, eps)
    return at


def advance(steps: Steps, eps: Tensor) -> Point | Tensor:
    """Where `steps` stand after the step that `eps` (B, C, L) was predicted for: the next point, or z_0 at the end."""
    try:
        return steps.send(eps)
    except StopIteration as end:
        z_0: Tensor = end.value
        return z_0


def ddim(schedule: NoiseSchedule, z_T: Tensor, *, n_steps: int, seeds: Sequence[Seed] = ()) -> Steps:
    """`n_steps` deterministic steps (DDIM, eta 0).

    As in LDM the last step ends at alpha_bar[0], not at 1, so a trace of the predicted noise (variance
    8.5e-4) remains. Draws nothing, so `seeds` play no part. An empty batch gives an empty batch. Raises
    ConfigError for a number of steps that the schedule does not have.
    """
    z = z_T
    for done, (t, t_prev) in enumerate(descending(schedule.ddim_steps(n_steps))):
        eps = yield Point(z, t, done, n_steps)
        z = ddim_step(schedule, z, eps, t, t_prev)
    return z


def ddpm(schedule: NoiseSchedule, z_T: Tensor, *, seeds: Sequence[Seed], n_steps: int | None = None) -> Steps:
    """All T ancestral steps (Eq. 8 and 9), whatever `n_steps` says.

    The noise of sample i at step t is drawn from (seeds[i], "ddpm-<t>") alone, time first, so neither the
    batch nor the padded length changes a sample. For a mix of seeds that noise is mixed as the start is.
    """
    if len(seeds) != len(z_T):
        raise ValueError(f"ddpm needs one seed a sample: found {len(seeds)} seeds for {len(z_T)} samples")
    z = z_T
    _, channels, length = z.shape
    for done, t in enumerate(reversed(range(schedule.n_steps))):
        eps = yield Point(z, t, done, schedule.n_steps)
        z, variance = schedule.posterior(z, _batch_of(t, z), eps)
        if t > 0:
            noise = randn_each(seeds, (length, channels), f"ddpm-{t}").transpose(1, 2)
            z = z + variance.sqrt() * noise.to(z)
    return z


def dpm_solver_pp(schedule: NoiseSchedule, z_T: Tensor, *, n_steps: int, seeds: Sequence[Seed] = ()) -> Steps:
    """`n_steps` steps of second order, one network evaluation each.

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
    for done, (t, t_next) in enumerate(pairwise(steps)):
        eps = yield Point(z, t, done, n_steps)
        clean = schedule.clean_from_eps(z, _batch_of(t, z), eps)
        h = float(log_snr[t_next] - log_snr[t])
        middle = clean if before is None else clean + h / (2 * h_before) * (clean - before)
        z = float(sigma[t_next] / sigma[t]) * z - float(alpha[t_next]) * math.expm1(-h) * middle
        before, h_before = clean, h
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
