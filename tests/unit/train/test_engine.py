"""The local engine: accumulation, clipping, AdamW, and coming back from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momu_dist.config.schema import OptimConfig
from momu_dist.train.checkpoint import Checkpoint
from momu_dist.train.engine import EngineOptions, LocalEngine


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()


def data(step: int, n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, x.sum(1, keepdim=True)


def engine(accumulation: int = 1, clip_norm: float = 1.0) -> LocalEngine:
    network = net()
    network.get_submodule("2").eval()  # batch statistics would make micro-batches differ
    return LocalEngine(
        "net", network, EngineOptions(OptimConfig(clip_norm=clip_norm), 2, accumulation, False)
    )


def train(unit: LocalEngine, steps: range, parts: int, lr: float = 1e-2) -> list[float]:
    norms = []
    for step in steps:
        x, y = data(step)
        for one, other in zip(x.chunk(parts), y.chunk(parts), strict=True):
            with unit.computing():
                loss = (unit.module(one) - other).square().mean()
            unit.backward(loss)
            norm = unit.step(lr)
            if norm is not None:
                norms.append(norm)
    return norms


def weights(unit: LocalEngine) -> Tensor:
    return torch.cat([value.flatten() for value in unit.local_parameters().values()])


def write(unit: LocalEngine, folder: Path) -> Checkpoint:
    for name, data in unit.snapshot().items():
        (folder / name).write_bytes(data)
    return Checkpoint(folder, {"step": 0, "world_size": 1})


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_one_large_batch(parts: int) -> None:
    whole, split = engine(), engine(accumulation=parts)
    norms, split_norms = train(whole, range(5), 1), train(split, range(5), parts)
    assert len(split_norms) == 5 and split_norms == pytest.approx(norms)
    torch.testing.assert_close(weights(split), weights(whole), atol=1e-12, rtol=1e-10)


def test_nothing_moves_before_the_batch_is_whole() -> None:
    unit = engine(accumulation=2)
    before = weights(unit).clone()
    x, y = data(0)
    unit.backward((unit.module(x) - y).square().mean())
    assert unit.step(1e-2) is None and torch.equal(weights(unit), before)


def test_step_is_clipped_adamw() -> None:
    unit, reference = engine(clip_norm=0.01), net()
    reference.get_submodule("2").eval()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.01)
    for step in range(3):
        x, y = data(step)
        optimizer.zero_grad()
        (reference(x) - y).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.01)
        optimizer.step()
        assert train(unit, range(step, step + 1), 1) == [pytest.approx(float(norm))]
    expected = torch.cat([p.detach().flatten() for p in reference.parameters()])
    torch.testing.assert_close(weights(unit), expected)


def test_the_rate_is_the_one_given() -> None:
    unit = engine()
    before = weights(unit).clone()
    train(unit, range(1), 1, lr=0.0)
    assert torch.equal(weights(unit), before)


def test_an_engine_that_has_not_stepped_yet_is_saved_too(tmp_path: Path) -> None:
    """Before the GAN starts nothing calls the discriminator, and every checkpoint holds it."""
    saved = write(engine(), tmp_path)
    unit = engine()
    train(unit, range(2), 1)
    unit.load(saved)
    assert torch.equal(weights(unit), weights(engine()))
    assert not unit.optimizer.state_dict()["state"]


def test_save_and_load_continue_bitwise(tmp_path: Path) -> None:
    unbroken, first = engine(), engine()
    train(unbroken, range(6), 1)
    train(first, range(3), 1)
    saved = write(first, tmp_path)
    train(first, range(60, 62), 1)  # a snapshot does not follow
    second = engine()
    train(second, range(40, 42), 1)  # anything, to be overwritten
    second.load(saved)
    train(second, range(3, 6), 1)
    assert torch.equal(weights(second), weights(unbroken))


def test_gather_takes_parameters_from_the_argument_and_copies() -> None:
    unit = engine()
    own = unit.local_parameters()
    doubled = {name: 2 * value for name, value in own.items()}
    whole = unit.gather(doubled)
    assert whole.keys() == unit.net.state_dict().keys()  # buffers too
    for name, value in whole.items():
        if name in doubled:
            assert torch.equal(value, doubled[name])
        else:
            assert torch.equal(value, unit.net.state_dict()[name])
            assert value.data_ptr() != unit.net.state_dict()[name].data_ptr()


def test_bf16_is_autocast_only() -> None:
    unit = LocalEngine("net", nn.Linear(4, 4), EngineOptions(OptimConfig(), 2, 1, True))
    with unit.computing():
        assert unit.module(torch.zeros(2, 4)).dtype == torch.bfloat16
    assert {p.dtype for p in unit.local_parameters().values()} == {torch.float32}


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    unit = engine()
    before = weights(unit).clone()
    loss = sum(
        ((p * 0).abs().sqrt().sum() for p in unit.net.parameters()), torch.zeros((), dtype=torch.float64)
    )
    assert torch.isfinite(loss), "the loss itself gives no sign"
    unit.backward(loss)
    norm = unit.step(1e-2)
    assert norm is not None and not np.isfinite(norm)
    assert torch.equal(weights(unit), before)


def test_localise_is_the_inverse_of_gather() -> None:
    unit = engine()
    whole = unit.gather(unit.local_parameters())
    back = unit.localise(whole)
    assert back.keys() == unit.local_parameters().keys()  # without buffers
    assert all(torch.equal(back[name], value) for name, value in unit.local_parameters().items())
