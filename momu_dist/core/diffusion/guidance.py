"""Guidance: what conditional networks are asked on the way from noise to a latent (Eq. 7), or to two (Algorithm 2).

A walk yields what it asks the networks at one moment and is sent their answers, so that many walks can share network
calls (`momu_dist.core.diffusion.batching`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from momu_dist.core.diffusion.samplers import Point, Steps, advance
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


@dataclass(frozen=True)
class Ask:
    """What a walk asks the network of that name: the noise of `point.z` (B, C, L), given `condition` (B, C_other, L).

    With `drop` the learned null takes the condition's place, whose values then play no part.
    """

    network: str
    point: Point
    condition: Tensor
    drop: bool


Walk = Generator[Sequence[Ask], Sequence[Tensor], tuple[Tensor, ...]]
"""Yields asks, is sent one eps (B, C, L) an ask, and returns the clean latents."""


def classifier_free(steps: Steps, network: str, condition: Tensor, scale: float) -> Walk:
    """`steps` under the guided noise eps_null + scale (eps_condition - eps_null), Eq. 7; returns (z_0,).

    Both branches are asked for at once. At scale 1 the null branch cancels, so only the conditional one is.
    """
    at: Point | Tensor = next(steps)
    while isinstance(at, Point):
        if scale == 1:
            (eps,) = yield [Ask(network, at, condition, drop=False)]
        else:
            null, conditioned = yield [Ask(network, at, condition, drop) for drop in (True, False)]
            eps = _guided(null, conditioned, scale)
        at = advance(steps, eps)
    return (at,)


def cross_guidance(
    music: Steps, motion: Steps, schedule: NoiseSchedule, gamma: float = 0.5, scale: float = 3.0
) -> Walk:
    """Music and motion latents that belong together: returns (z_0^a, z_0^m) (Algorithm 2).

    `music` and `motion` are steps of one deterministic sampler (the paper's is DDIM with eta 0) over one `schedule`. The
    networks asked are "m2a" for music and "a2m" for motion; each takes the other modality's latents in the scale of
    those it was trained on. Above T_c = gamma T each latent moves unconditionally; from T_c down each is guided by
    the other's clean estimate (gamma 0.5 is the paper's default; of 50 DDIM steps 25 are guided). Raises ConfigError
    for gamma outside [0, 1].

    Clean estimates come from the unconditional branch, and both are made before either latent moves (Jacobi),
    as printed. With Eq. 7 that branch serves twice: as null of the guidance and for the estimate. A guided
    step therefore takes four network evaluations, a free one two. The null and the conditional evaluation of
    one network cannot share a call, unlike in `classifier_free`: the condition is made of the other network's
    null output.
    """
    if not 0 <= gamma <= 1:
        raise ConfigError(f"The cross-guidance scale gamma is {gamma}; expected a number from 0 to 1.")
    t_cross = gamma * schedule.n_steps
    a: Point | Tensor = next(music)
    m: Point | Tensor = next(motion)
    while isinstance(a, Point) and isinstance(m, Point):
        assert a.t == m.t, "both modalities take the same steps"
        eps_a, eps_m = yield [Ask("m2a", a, m.z, drop=True), Ask("a2m", m, a.z, drop=True)]
        if a.t <= t_cross:
            clean_a, clean_m = (_clean(schedule, at, eps) for at, eps in ((a, eps_a), (m, eps_m)))
            for_a, for_m = yield [Ask("m2a", a, clean_m, drop=False), Ask("a2m", m, clean_a, drop=False)]
            eps_a, eps_m = _guided(eps_a, for_a, scale), _guided(eps_m, for_m, scale)
        a, m = advance(music, eps_a), advance(motion, eps_m)
    assert isinstance(a, Tensor) and isinstance(m, Tensor), "both modalities end at the same step"
    return a, m


def _guided(null: Tensor, conditioned: Tensor, scale: float) -> Tensor:
    return null + scale * (conditioned - null)


def _clean(schedule: NoiseSchedule, at: Point, eps: Tensor) -> Tensor:
    return schedule.clean_from_eps(at.z, at.t_of_batch, eps)
