"""Walks share network calls, and what each makes is what it makes alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momu_dist.core.catalog import SAMPLERS
from momu_dist.core.diffusion.batching import LENGTH_RATIO, Walkers, evaluate
from momu_dist.core.diffusion.guidance import (
    Ask,
    ConditionalModel,
    Walk,
    as_eps,
    classifier_free,
    cross_guidance,
)
from momu_dist.core.diffusion.samplers import Point, Steps
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.models.dit import DiTConfig, LatentDiT
from momu_dist.core.random import randn_each

CHANNELS = 20
SCHEDULE = NoiseSchedule.linear()


class Counted:
    """A network that keeps the shapes it was called with."""

    def __init__(self, model: ConditionalModel) -> None:
        self.model, self.shapes = model, list[tuple[int, int]]()

    def __call__(
        self, z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /
    ) -> Tensor:
        self.shapes.append((z.shape[0], z.shape[2]))
        return self.model(z, t, condition, lengths, drop)


@pytest.fixture(scope="module", params=["learned", "aligned"])
def transformers(request: pytest.FixtureRequest) -> dict[str, ConditionalModel]:
    """Small ones with weights far from those at the start, where the output would be all zeros."""
    nets = {}
    for i, name in enumerate(("m2a", "a2m")):
        torch.manual_seed(i)
        net = LatentDiT(
            DiTConfig(hidden_size=64, num_heads=2, depth=2, max_latents=200, positions=request.param)
        )
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        nets[name] = as_eps(net.eval(), SCHEDULE, "eps")
    return nets


@pytest.fixture()
def networks(transformers: dict[str, ConditionalModel]) -> dict[str, Counted]:
    return {name: Counted(net) for name, net in transformers.items()}


def noise(seed: int, length: int, purpose: str = "start") -> Tensor:
    return randn_each([seed], (length, CHANNELS), purpose).transpose(1, 2)


def steps(seed: int, length: int, sampler: str = "ddim", n_steps: int = 50, purpose: str = "start") -> Steps:
    return SAMPLERS[sampler](SCHEDULE, noise(seed, length, purpose), n_steps=n_steps, seeds=[seed])


def guided(
    network: str, seed: int, length: int, sampler: str = "ddim", n_steps: int = 50, scale: float = 3.0
) -> Walk:
    return classifier_free(
        steps(seed, length, sampler, n_steps), network, noise(seed, length, "condition"), scale
    )


def joint(seed: int, length: int, sampler: str = "ddim", n_steps: int = 50, gamma: float = 0.5) -> Walk:
    music, motion = (steps(seed, length, sampler, n_steps, purpose) for purpose in ("m2a", "a2m"))
    return cross_guidance(music, motion, SCHEDULE, gamma)


MIXED = {
    "motion": lambda: guided("a2m", 1, 60),
    "music": lambda: guided("m2a", 2, 41, n_steps=50, scale=2.0),
    "short": lambda: guided("a2m", 3, 12, "dpm++", 15),
    "unguided": lambda: guided("a2m", 4, 55, scale=1.0),
    "both": lambda: joint(5, 33),
    "both, other steps": lambda: joint(6, 61, "dpm++", 20, gamma=0.7),
}


def run(networks: dict[str, Counted], walks: dict[str, Walk]) -> dict[str, tuple[Tensor, ...]]:
    walkers: Walkers[str] = Walkers(networks)
    for key, walk in walks.items():
        walkers.join(key, walk)
    ended: dict[str, tuple[Tensor, ...]] = {}
    while len(walkers):
        ended |= walkers.step()
    return ended


def test_in_company_as_alone(networks: dict[str, Counted]) -> None:
    """Unlike tasks, lengths, samplers and numbers of steps: 1e-4 of the latents' size after 50 steps."""
    together = run(networks, {name: make() for name, make in MIXED.items()})
    for name, make in MIXED.items():
        alone = run(networks, {name: make()})[name]
        for one, other in zip(together[name], alone, strict=True):
            assert one.shape == other.shape
            assert (one - other).abs().max() <= 1e-4 * other.abs().max(), name


def test_one_call_answers_as_many_would(networks: dict[str, Counted]) -> None:
    asks = [
        Ask("a2m", Point(noise(i, length), t, 0, 1), noise(i, length, "c"), drop)
        for i, (length, t, drop) in enumerate(
            [(60, 981, False), (50, 1, True), (55, 500, False), (9, 3, False)]
        )
    ]
    together = evaluate(networks, asks)
    assert [rows for rows, _ in networks["a2m"].shapes] == [
        3,
        1,
    ]  # the short one is not padded to six times its length
    for ask, eps in zip(asks, together, strict=True):
        (alone,) = evaluate(networks, [ask])
        assert eps.shape == ask.point.z.shape
        torch.testing.assert_close(eps, alone, rtol=0, atol=1e-5)


def test_calls_are_one_for_each_network_and_bucket_of_lengths(networks: dict[str, Counted]) -> None:
    walkers: Walkers[int] = Walkers(networks)
    for i in range(4):
        walkers.join(i, guided("a2m", i, 50 + i))
    walkers.join(4, joint(4, 52))
    walkers.step()
    # The joint walk's unconditional evaluation goes along with both branches of the others.
    assert networks["a2m"].shapes == [(9, 53)] and networks["m2a"].shapes == [(1, 52)]


def test_padding_is_bounded(networks: dict[str, Counted]) -> None:
    walkers: Walkers[int] = Walkers(networks)
    lengths = [10, 11, 12, 13, 14, 20, 24, 40, 60, 100]
    for i, length in enumerate(lengths):
        walkers.join(i, guided("a2m", i, length, scale=1.0))
    walkers.step()
    padded = sum(rows * length for rows, length in networks["a2m"].shapes)
    assert padded <= LENGTH_RATIO * sum(lengths)
    assert len(networks["a2m"].shapes) < len(lengths)


def test_a_call_holds_no_more_than_the_limit(
    networks: dict[str, Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("momu_dist.core.diffusion.batching.MAX_LATENTS_A_CALL", 100)
    walkers: Walkers[int] = Walkers(networks)
    for i in range(5):
        walkers.join(i, guided("a2m", i, 40, scale=1.0))
    walkers.join(5, guided("a2m", 5, 150, scale=1.0))  # larger than the limit by itself: alone
    walkers.step()
    assert sorted(networks["a2m"].shapes) == [(1, 40), (1, 150), (2, 40), (2, 40)]


def test_walks_join_and_leave_between_steps(networks: dict[str, Counted]) -> None:
    walkers: Walkers[str] = Walkers(networks)
    walkers.join("first", guided("a2m", 1, 30, n_steps=4))
    walkers.step()
    walkers.join("second", guided("a2m", 2, 30, n_steps=4))
    walkers.join("gone", guided("a2m", 3, 30, n_steps=4))
    walkers.step()
    walkers.leave("gone")
    walkers.leave("never there")
    assert walkers.progress("first") == (2, 4) and walkers.progress("second") == (1, 4)
    assert walkers.present() == ["first", "second"] and walkers.steps_done() == 3
    assert not walkers.step()
    assert list(walkers.step()) == ["first"]
    assert list(walkers.step()) == ["second"] and not len(walkers)
    assert [rows for rows, _ in networks["a2m"].shapes] == [2, 6, 4, 4, 2]


def test_a_late_comer_changes_nothing_for_those_who_are_there(networks: dict[str, Counted]) -> None:
    walkers: Walkers[str] = Walkers(networks)
    walkers.join("first", guided("a2m", 1, 40, n_steps=6))
    ended: dict[str, tuple[Tensor, ...]] = {}
    for i in range(12):
        if i == 3:
            walkers.join("late", guided("a2m", 2, 44, "dpm++", 8))
        ended |= walkers.step()
    for name, walk in (
        ("first", guided("a2m", 1, 40, n_steps=6)),
        ("late", guided("a2m", 2, 44, "dpm++", 8)),
    ):
        torch.testing.assert_close(ended[name][0], run(networks, {"x": walk})["x"][0], rtol=0, atol=1e-4)


def test_nothing_is_asked_where_nobody_walks(networks: dict[str, Counted]) -> None:
    assert Walkers[str](networks).step() == {} and evaluate(networks, []) == []
    assert not networks["a2m"].shapes
