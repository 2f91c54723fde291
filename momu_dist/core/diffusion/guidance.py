"""Guidance: denoisers made of conditional networks (Eq. 7), and joint sampling of both (Algorithm 2)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from momu_dist.core.diffusion.samplers import Denoiser, OnStep, ddim_step, descending
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.errors import ConfigError


class ConditionalModel(Protocol):
    """A network that predicts the noise (or v) of one modality's latents, given the other modality's.

    z (B, C, L); t (B,) int64; condition (B, C_other, L); lengths (B,) int64 or None for "all of L"; drop (B,)
    bool, true where the learned null takes the condition's place. Returns (B, C, L).
    """

    def __call__(
        self, z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /
    ) -> Tensor: ...


def as_eps(model: ConditionalModel, schedule: NoiseSchedule, prediction: str) -> ConditionalModel:
    """`model` as a predictor of eps, whatever it was trained to predict (`prediction`: "eps" or "v").

    Guidance mixes branches linearly, and eps is linear in v at fixed z_t, so guiding eps and guiding v are
    the same.
    """
    if prediction == "eps":
        return model
    if prediction != "v":
        raise ConfigError(f"`prediction` is {prediction!r}; expected 'eps' or 'v'.")

    def eps_model(z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /) -> Tensor:
        return schedule.eps_from_v(z, t, model(z, t, condition, lengths, drop))

    return eps_model


def classifier_free(
    model: ConditionalModel, condition: Tensor, scale: float, lengths: Tensor | None = None
) -> Denoiser:
    """The guided denoiser eps_null + scale (eps_condition - eps_null), Eq. 7.

    `model` predicts eps (see `as_eps`); `condition` (B, C_other, L), `lengths` (B,). Both branches are one
    call with 2 B rows, null first. At scale 1 the null branch cancels, so only the conditional one is
    computed.
    """

    def conditional(z: Tensor, t: Tensor) -> Tensor:
        return model(z, t, condition, lengths, _drop(z, False))

    def guided(z: Tensor, t: Tensor) -> Tensor:
        twice = None if lengths is None else torch.cat([lengths, lengths])
        drop = torch.cat([_drop(z, True), _drop(z, False)])
        eps = model(torch.cat([z, z]), torch.cat([t, t]), torch.cat([condition, condition]), twice, drop)
        null, conditioned = eps.chunk(2)
        return null + scale * (conditioned - null)

    return conditional if scale == 1 else guided


@torch.no_grad()
def cross_guidance(
    eps_a: ConditionalModel,
    eps_m: ConditionalModel,
    schedule: NoiseSchedule,
    z_a: Tensor,
    z_m: Tensor,
    n_steps: int,
    gamma: float = 0.5,
    scale: float = 3.0,
    lengths: Tensor | None = None,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """Music and motion latents that belong together, (B, C_a, L) and (B, C_m, L) (Algorithm 2).

    `eps_a(z_a, t, z_m, ...)` and `eps_m(z_m, t, z_a, ...)` predict eps and take the other modality's latents
    in the scale of those they were trained on. Steps are DDIM, eta 0. Above T_c = gamma T each latent moves
    unconditionally; from T_c down each is guided by the other's clean estimate (gamma 0.5 is the paper's
    default; of 50 steps 25 are guided). Raises ConfigError for gamma outside [0, 1].

    Clean estimates come from the unconditional branch, and both are made before either latent moves (Jacobi),
    as printed. With Eq. 7 that branch serves twice: as null of the guidance and for the estimate. A guided
    step therefore takes four network evaluations, a free one two. The null and the conditional evaluation of
    one network cannot share a call, unlike in `classifier_free`: the condition is made of the other network's
    null output.
    """
    if not 0 <= gamma <= 1:
        raise ConfigError(f"The cross-guidance scale gamma is {gamma}; expected a number from 0 to 1.")
    t_cross = gamma * schedule.n_steps
    for done, (t_now, t_prev) in enumerate(descending(schedule.ddim_steps(n_steps)), start=1):
        t = torch.full((len(z_a),), t_now, dtype=torch.int64, device=z_a.device)
        null_a = eps_a(z_a, t, torch.zeros_like(z_m), lengths, _drop(z_a, True))
        null_m = eps_m(z_m, t, torch.zeros_like(z_a), lengths, _drop(z_m, True))
        guided_a, guided_m = null_a, null_m
        if t_now <= t_cross:
            clean_a = schedule.clean_from_eps(z_a, t, null_a)
            clean_m = schedule.clean_from_eps(z_m, t, null_m)
            guided_a = null_a + scale * (eps_a(z_a, t, clean_m, lengths, _drop(z_a, False)) - null_a)
            guided_m = null_m + scale * (eps_m(z_m, t, clean_a, lengths, _drop(z_m, False)) - null_m)
        z_a = ddim_step(schedule, z_a, guided_a, t_now, t_prev)
        z_m = ddim_step(schedule, z_m, guided_m, t_now, t_prev)
        if on_step:
            on_step(done, n_steps)
    return z_a, z_m


def _drop(z: Tensor, value: bool) -> Tensor:
    return torch.full((len(z),), value, dtype=torch.bool, device=z.device)
