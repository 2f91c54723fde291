from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momu_dist.core.diffusion.batching import Walkers
from momu_dist.core.diffusion.guidance import (
    ConditionalModel,
    Walk,
    as_eps,
    classifier_free,
    cross_guidance,
)
from momu_dist.core.diffusion.samplers import Point, Steps, ddim
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.errors import ConfigError


class Recorder:
    """Predicts z + 10 t where dropped, z + condition elsewhere; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]] = []

    def __call__(
        self, z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /
    ) -> Tensor:
        self.calls.append((z, t, condition, lengths, drop))
        return z + torch.where(drop.view(-1, 1, 1), 10.0 * t.view(-1, 1, 1), condition)


@pytest.fixture()
def latents() -> tuple[Tensor, Tensor, Tensor]:
    z, condition = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    return z, torch.tensor([3, 5]), condition


def once(z: Tensor, t: int) -> Steps:
    """A sampler of one step whose result is the noise it was sent."""
    eps = yield Point(z, t, 0, 1)
    return eps


def walked(walk: Walk, **networks: ConditionalModel) -> tuple[Tensor, ...]:
    walkers: Walkers[str] = Walkers(networks)
    walkers.join("one", walk)
    while not (ended := walkers.step()):
        pass
    return ended["one"]


def jointly(
    music: ConditionalModel,
    motion: ConditionalModel,
    z_a: Tensor,
    z_m: Tensor,
    n_steps: int,
    gamma: float = 0.5,
) -> tuple[Tensor, ...]:
    schedule = NoiseSchedule.linear()
    steps = [ddim(schedule, z, n_steps=n_steps) for z in (z_a, z_m)]
    return walked(cross_guidance(*steps, schedule, gamma), m2a=music, a2m=motion)


def test_both_branches_are_one_call_mixed_as_equation_7(latents) -> None:
    z, _, condition = latents
    model = Recorder()
    (eps,) = walked(classifier_free(once(z, 3), "m2a", condition, 3.0), m2a=model)
    null, conditioned = z + 30.0, z + condition
    torch.testing.assert_close(eps, null + 3.0 * (conditioned - null))
    (call,) = model.calls
    assert call[4].tolist() == [True, True, False, False]
    assert call[1].tolist() == [3] * 4 and call[3].tolist() == [4] * 4


def test_scale_one_computes_the_conditional_branch_only(latents) -> None:
    z, _, condition = latents
    model = Recorder()
    (eps,) = walked(classifier_free(once(z, 3), "m2a", condition, 1.0), m2a=model)
    torch.testing.assert_close(eps, z + condition)
    assert [call[4].tolist() for call in model.calls] == [[False, False]]


def test_a_v_model_guides_as_the_eps_model_it_stands_for(latents) -> None:
    z, _, condition = latents
    schedule, eps_model = NoiseSchedule.linear(), Recorder()

    def v_model(z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /) -> Tensor:
        eps = eps_model(z, t, condition, lengths, drop)
        return schedule.v_target(schedule.clean_from_eps(z, t, eps), t, eps)

    (expected,) = walked(classifier_free(once(z, 3), "m2a", condition, 3.0), m2a=eps_model)
    same = as_eps(v_model, schedule, "v")
    torch.testing.assert_close(
        walked(classifier_free(once(z, 3), "m2a", condition, 3.0), m2a=same)[0], expected
    )
    assert as_eps(eps_model, schedule, "eps") is eps_model
    with pytest.raises(ConfigError, match="'eps' or 'v'"):
        as_eps(eps_model, schedule, "x0")


@pytest.mark.parametrize(("gamma", "n_guided"), [(0.0, 0), (0.1, 5), (0.5, 25), (0.9, 45), (1.0, 50)])
def test_evaluations_are_two_a_free_step_and_four_a_guided_one(latents, gamma, n_guided) -> None:
    z_a, _, z_m = latents
    music, motion = Recorder(), Recorder()
    jointly(music, motion, z_a, z_m, 50, gamma)
    assert len(music.calls) == len(motion.calls) == 50 + n_guided


def test_clean_estimates_are_unconditional_and_made_before_either_latent_moves(latents) -> None:
    z_a, _, z_m = latents
    schedule, music, motion = NoiseSchedule.linear(), Recorder(), Recorder()
    jointly(music, motion, z_a, z_m, 1, 1.0)
    for net, own, other in ((music, z_a, z_m), (motion, z_m, z_a)):
        (null, guided) = net.calls
        assert null[4].all() and not guided[4].any()
        torch.testing.assert_close(guided[0], own)
        t = guided[1]
        torch.testing.assert_close(
            guided[2], schedule.clean_from_eps(other, t, other + 10.0 * t.view(-1, 1, 1))
        )


def test_modalities_may_differ_in_channels() -> None:
    def zero(z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /) -> Tensor:
        assert condition.shape[1] == 7 - z.shape[1]
        return torch.zeros_like(z)

    z_a, z_m = jointly(zero, zero, torch.ones(1, 3, 4), torch.ones(1, 4, 4), 4)
    assert z_a.shape == (1, 3, 4) and z_m.shape == (1, 4, 4)


def test_gamma_outside_the_unit_interval_is_refused(latents) -> None:
    z, _, _ = latents
    with pytest.raises(ConfigError, match="gamma is 1.5"):
        jointly(Recorder(), Recorder(), z, z, 4, gamma=1.5)
