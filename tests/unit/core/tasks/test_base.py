"""Promises of every stage: crops belong to the sample, and a sample's loss does not know its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from momu_dist.core.catalog import STAGES
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.seeds import seed_of
from momu_dist.core.tasks.base import (
    draw_crop,
    make_batch,
    motion_channels,
    motion_from_channels,
    pad_stack,
)

STAGE_NAMES = tuple(STAGES)
LENGTHS = (96, 60, 200, 48)  # frames: as long as a crop, shorter, longer, the shortest
SEEDS = tuple(seed_of("test", i) for i in range(len(LENGTHS)))


@pytest.fixture(params=STAGE_NAMES)
def stage(request: pytest.FixtureRequest, make_stage: Callable[..., Any]) -> Any:
    return make_stage(request.param)


def losses(stage: Any, batch: Any, progress: float) -> dict[str, float]:
    with torch.no_grad():
        return {
            phase.network: float(phase.total) for phase in stage.task.phases(stage.networks, batch, progress)
        }


@pytest.mark.parametrize("length", [2, 47, 96, 97, 1000])
def test_crops_are_even_and_inside_the_clip(length: int) -> None:
    sizes = set()
    for seed in range(200):
        start, stop = draw_crop(seed, length, 48, 96)
        assert start % 2 == 0 and stop % 2 == 0 and 0 <= start < stop <= length
        sizes.add(stop - start)
        assert draw_crop(seed, length, 48, 96) == (start, stop)
    if length >= 96:
        assert min(sizes) == 48 and max(sizes) == 96
    else:
        assert max(sizes) == length - length % 2


def test_crops_reach_both_ends_of_a_clip() -> None:
    drawn = [draw_crop(seed, 100, 48, 48) for seed in range(400)]
    assert {start for start, _ in drawn} == set(range(0, 54, 2))


def test_pad_stack_puts_zeros_behind() -> None:
    out = pad_stack([np.ones((3, 2)), np.full((3, 4), 2.0)])
    assert out.dtype == torch.float32 and out.shape == (2, 3, 4)
    assert out[0].sum() == 6 and bool((out[0, :, 2:] == 0).all()) and bool((out[1] == 2).all())


def test_make_batch_keeps_ids_seeds_and_lengths() -> None:
    rows = [{"clip_id": "a"}, {"clip_id": "b"}]
    batch = make_batch(rows, (5, 6), [{"x": np.ones((1, 4))}, {"x": np.ones((1, 2))}])
    assert batch.clip_ids == ("a", "b") and batch.seeds == (5, 6) and batch.lengths.tolist() == [4, 2]
    assert batch.to(torch.device("cpu"))["x"].shape == (2, 1, 4)


def test_motion_channels_and_back() -> None:
    stats = MotionStats((320.0, 240.0), 80.0, (50.0,) * 13)
    motion = np.random.default_rng(0).normal(300.0, 50.0, (6, 14, 2)).astype(np.float32)
    channels = motion_channels(motion, stats)
    assert channels.shape == (28, 6)
    np.testing.assert_allclose(channels[:2, 3], (motion[3, 0] - (320.0, 240.0)) / 80.0, rtol=1e-5)
    np.testing.assert_allclose(motion_from_channels(channels, stats), motion, rtol=1e-5)


def test_collate_is_a_function_of_each_samples_seed(stage: Any) -> None:
    rows = stage.rows(LENGTHS)
    together = stage.task.collate(rows, SEEDS)
    again = stage.task.collate(rows[::-1], SEEDS[::-1])
    torch.manual_seed(99)  # the global generators play no part
    np.random.seed(99)
    for i, row in enumerate(rows):
        alone = stage.task.collate([row], [SEEDS[i]])
        for name, tensor in alone.tensors.items():
            n = tensor.shape[-1]
            assert torch.equal(together[name][i, ..., :n], tensor[0])
            assert torch.equal(again[name][-1 - i, ..., :n], tensor[0])
            assert bool((together[name][i, ..., n:] == 0).all())
        assert together.lengths[i] == int(alone.lengths) and together.clip_ids[i] == row["clip_id"]
    other = stage.task.collate(rows, [seed_of("other", i) for i in range(len(rows))])
    assert other.lengths.tolist() != together.lengths.tolist() or any(
        not torch.equal(other[name], tensor) for name, tensor in together.tensors.items()
    )


def test_modalities_are_cropped_at_the_same_time(make_stage: Callable[..., Any]) -> None:
    stage = make_stage("motion_vae")
    (row,) = stage.rows((200,))
    ramp = np.arange(200, dtype=np.float32)
    row.update(mel=np.tile(ramp, (80, 1)), amplitude=ramp, motion=np.tile(ramp[:, None, None], (1, 14, 2)))
    batch = stage.task.collate([row], [11])
    motion = motion_from_channels(batch["motion"][0].numpy(), stage.task.stats)[:, 0, 0]
    np.testing.assert_allclose(batch["mel"][0, 0], batch["amplitude"][0])
    np.testing.assert_allclose(motion, batch["amplitude"][0], atol=1e-3)


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_batch_loss_is_the_mean_of_single_losses(stage: Any, progress: float) -> None:
    rows = stage.rows(LENGTHS)
    batch = losses(stage, stage.task.collate(rows, SEEDS), progress)
    single = [
        losses(stage, stage.task.collate([row], [seed]), progress)
        for row, seed in zip(rows, SEEDS, strict=True)
    ]
    assert batch
    for name, value in batch.items():
        assert value == pytest.approx(np.mean([one[name] for one in single]), abs=1e-5)
    assert len({round(one[next(iter(one))], 6) for one in single}) == len(rows)


def test_validation_of_a_sample_does_not_know_its_batch(stage: Any) -> None:
    rows = stage.rows(LENGTHS)
    with torch.no_grad():
        batch = stage.task.validate(stage.networks, stage.task.collate(rows, SEEDS))
        for i, (row, seed) in enumerate(zip(rows, SEEDS, strict=True)):
            alone = stage.task.validate(stage.networks, stage.task.collate([row], [seed]))
            assert alone.keys() == batch.keys()
            for name, value in alone.items():
                if not name.startswith("shuffled"):
                    torch.testing.assert_close(batch[name][i : i + 1], value, atol=1e-5, rtol=1e-4)


def test_the_loss_is_that_of_the_networks_it_is_given(stage: Any) -> None:
    """A task that used networks of its own would train without gradient synchronisation."""
    batch = stage.task.collate(stage.rows(LENGTHS), SEEDS)
    main = next(iter(stage.networks))
    phase = next(iter(stage.task.phases(stage.networks, batch, 0.0)))
    assert phase.network == main
    phase.total.backward()
    for name, parameter in stage.networks[main].named_parameters():
        assert parameter.grad is not None, name
