"""The learning rate is a function of the step."""

from __future__ import annotations

import math

import pytest

from momu_dist.config.schema import OptimConfig
from momu_dist.train.schedule import learning_rate


def rates(optim: OptimConfig, total: int) -> list[float]:
    return [learning_rate(optim, step, total) for step in range(total)]


def test_constant() -> None:
    assert rates(OptimConfig(lr=0.3), 5) == [0.3] * 5


def test_warm_up_is_linear_from_a_millionth_and_then_full() -> None:
    got = rates(OptimConfig(lr=2.0, warmup_steps=4), 6)
    assert got == pytest.approx([2e-6, 0.5, 1.0, 1.5, 2.0, 2.0], rel=1e-5)


def test_a_warm_up_longer_than_the_run_never_ends() -> None:
    assert max(rates(OptimConfig(lr=1.0, warmup_steps=100), 10)) < 0.1


def test_cosine_falls_from_the_full_rate_towards_zero_after_the_warm_up() -> None:
    got = rates(OptimConfig(lr=1.0, warmup_steps=2, schedule="cosine"), 12)
    assert got[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 10)) for k in range(10)])
    assert got[2] == 1.0 and got == got[:3] + sorted(got[3:], reverse=True)
    assert learning_rate(OptimConfig(lr=1.0, schedule="cosine"), 12, 12) == pytest.approx(0.0, abs=1e-12)


def test_another_base_rate_keeps_the_shape() -> None:
    optim = OptimConfig(lr=1.0, warmup_steps=3, schedule="cosine")
    for step in range(8):
        assert learning_rate(optim, step, 8, base_lr=0.5) == pytest.approx(
            0.5 * learning_rate(optim, step, 8)
        )
