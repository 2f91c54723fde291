"""The noise schedule and what follows from it in closed form (Eq. 5, 8, 9; reference implementation: LDM and
Make-An-Audio-2).

Diffusion step `t` is the zero-based index into `alpha_bar` everywhere: t = 0 is the least noise, t = n_steps
- 1 the most. (The paper counts from 1, so its alpha_bar_1 is `alpha_bar[0]`.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from momu_dist.errors import ConfigError


@dataclass(frozen=True)
class NoiseSchedule:
    """The tables of the forward process, each (n_steps,) float64 on the CPU.

    Latents are (B, C, L) of any float dtype; `t` is an integer tensor (B,). Coefficients are looked up in
    float64 and only then cast to the latents' dtype and device, so that float32 sampling loses nothing to the
    tables.
    """

    betas: Tensor
    alphas: Tensor
    alpha_bar: Tensor

    @classmethod
    def linear(cls, n_steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> NoiseSchedule:
        """The schedule LDM calls "linear": sqrt(beta) is linear in t. Defaults are Make-An-Audio-2's (the
        paper: T = 1000)."""
        if n_steps < 2 or not 0 < start <= end < 1:
            raise ConfigError(
                f"The noise schedule needs n_steps >= 2 and 0 < start <= end < 1, found n_steps={n_steps}, "
                f"start={start}, end={end}: correct the `diffusion` section."
            )
        betas = torch.linspace(start**0.5, end**0.5, n_steps, dtype=torch.float64) ** 2
        alphas = 1.0 - betas
        return cls(betas, alphas, torch.cumprod(alphas, dim=0))

    @property
    def n_steps(self) -> int:
        """T, the number of diffusion steps."""
        return len(self.betas)

    def q_sample(self, z0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """z_t (B, C, L) drawn from q(z_t | z_0) with the noise `eps` (B, C, L): Eq. 5 summed over steps."""
        return self._sqrt_alpha_bar(t, z0) * z0 + self._sqrt_noise(t, z0) * eps

    def clean_from_eps(self, z_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The clean estimate z_0 (B, C, L) that `eps` implies (Algorithm 2: the estimate handed to the other
        network)."""
        return (z_t - self._sqrt_noise(t, z_t) * eps) / self._sqrt_alpha_bar(t, z_t)

    def v_target(self, z0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z_0 (Salimans and Ho 2022), the target of
        `prediction: v`."""
        return self._sqrt_alpha_bar(t, z0) * eps - self._sqrt_noise(t, z0) * z0

    def eps_from_v(self, z_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """The noise estimate (B, C, L) that a prediction `v` implies."""
        return self._sqrt_alpha_bar(t, z_t) * v + self._sqrt_noise(t, z_t) * z_t

    def posterior(self, z_t: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, C, L) and variance (B, 1, 1) of p(z_{t-1} | z_t), Eq. 8 and 9.

        At t = 0 there is no step before, alpha_bar is 1 there and the variance 0: the mean is the clean
        estimate.
        """
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        variance = (1 - before) / (1 - self.alpha_bar) * self.betas
        step_noise = _at(self.betas / (1 - self.alpha_bar).sqrt(), t, z_t)
        mean = (z_t - step_noise * eps) / _at(self.alphas.sqrt(), t, z_t)
        return mean, _at(variance, t, z_t)

    def ddim_steps(self, n: int) -> list[int]:
        """The `n` diffusion steps a DDIM run visits, ascending: 1, 21, ..., 981 for 50 of 1000.

        floor(i T / n) + 1, which is LDM's uniform grid wherever n divides T. Where it does not, LDM returns
        more steps than asked for; at n = T it runs out of the table, so there the grid is 0 .. T-1. Raises
        ConfigError unless 1 <= n <= T.
        """
        if not 1 <= n <= self.n_steps:
            raise ConfigError(
                f"Sampling takes 1 to {self.n_steps} steps, found {n}: choose another number of steps."
            )
        offset = 0 if n == self.n_steps else 1
        return [i * self.n_steps // n + offset for i in range(n)]

    @property
    def log_snr(self) -> Tensor:
        """lambda (n_steps,) = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)), float64: falls as t rises."""
        return 0.5 * torch.logit(self.alpha_bar)

    def log_snr_steps(self, n: int) -> list[int]:
        """The n + 1 diffusion steps between which `n` steps of equal log-SNR lie, ascending from 0 to T - 1.

        Equal distances in lambda, each rounded to the nearest entry of the table. Next to t = 0 the table is
        coarser than the grid (lambda[0] - lambda[1] is 0.35, of 6.2 in all); there a step is moved up to the
        next free entry, so no step is visited twice, whatever n. Raises ConfigError unless 1 <= n < T.
        """
        last = self.n_steps - 1
        if not 1 <= n <= last:
            raise ConfigError(
                f"Sampling by log-SNR (dpm++) takes 1 to {last} steps, found {n}: choose another number of steps."
            )
        table = self.log_snr
        wanted = torch.linspace(float(table[0]), float(table[-1]), n + 1, dtype=torch.float64)
        above = torch.searchsorted(-table, -wanted).clamp(1, last)
        nearest = above - (table[above - 1] - wanted < wanted - table[above]).long()
        steps = [0]
        for i, step in enumerate(nearest.tolist()[1:], start=1):
            # Not so high that the n - i steps above it would run out of the table.
            steps.append(max(steps[-1] + 1, min(step, last - (n - i))))
        return steps

    def _sqrt_alpha_bar(self, t: Tensor, like: Tensor) -> Tensor:
        return _at(self.alpha_bar.sqrt(), t, like)

    def _sqrt_noise(self, t: Tensor, like: Tensor) -> Tensor:
        return _at((1 - self.alpha_bar).sqrt(), t, like)


def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """table[t] as (B, 1, 1) in the dtype and on the device of `like`."""
    return table.to(t.device)[t].to(device=like.device, dtype=like.dtype).view(-1, 1, 1)
