"""The moving average against its formula."""

from __future__ import annotations

import pytest
import torch

from momu_dist.train.ema import Ema


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_follows_the_formula(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(3, generator=generator) for _ in range(40)]
    ema, expected = Ema({"w": values[0]}, decay), values[0].clone()
    for n, value in enumerate(values[1:], start=1):
        ema.update({"w": value})
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
        torch.testing.assert_close(ema.shadow["w"], expected)


def test_the_average_is_a_copy_in_fp32() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    ema = Ema({"w": parameter}, 0.9)
    with torch.no_grad():
        parameter += 1
    assert ema.shadow["w"].tolist() == [0.0, 0.0] and ema.shadow["w"].dtype == torch.float32
    ema.update({"w": parameter})
    assert ema.shadow["w"].tolist() == pytest.approx([9 / 11, 9 / 11])  # 1 - (1 + 1) / (10 + 1)
    assert not ema.shadow["w"].requires_grad and parameter.tolist() == [1.0, 1.0]


def test_goes_on_from_its_state() -> None:
    first = Ema({"w": torch.zeros(2)}, 0.99)
    for _ in range(3):
        first.update({"w": torch.ones(2)})
    second = Ema({"w": torch.full((2,), 7.0)}, 0.99)
    second.restore({"w": first.shadow["w"].clone(), "a buffer": torch.ones(1)}, first.updates)
    for ema in (first, second):
        ema.update({"w": torch.full((2,), 5.0)})
    assert torch.equal(first.shadow["w"], second.shadow["w"]) and second.updates == 4
