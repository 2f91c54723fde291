"""Diffusion in the latent space: direction, condition drop, what validation says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from momu_dist.core.seeds import seed_of
from momu_dist.core.tasks.dit import VALIDATION_BINS, DitLoss

DIRECTIONS = ("dit_m2a", "dit_a2m")


class Recorder(nn.Module):
    """Predicts zero and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, *given: Any) -> torch.Tensor:
        self.calls.append(given)
        return torch.zeros_like(given[0])


@pytest.fixture(params=DIRECTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(stage: Any, batch: Any) -> tuple[Any, tuple[Any, ...]]:
    recorder = Recorder()
    (phase,) = stage.task.phases({"dit": recorder}, batch, 0.0)
    (call,) = recorder.calls
    return phase, call


def test_directions_differ_in_target_and_condition(make_stage: Callable[..., Any]) -> None:
    m2a, a2m = (make_stage(name, length_frames=(96, 96)) for name in DIRECTIONS)
    row = m2a.rows((96,))[0]
    here, there = (stage.task.collate([row], [1]) for stage in (m2a, a2m))
    for batch, target, condition in ((here, "music", "motion"), (there, "motion", "music")):
        assert torch.equal(batch["mean"][0], torch.from_numpy(row[f"{target}_mean"].T))
        assert torch.equal(batch["logvar"][0], torch.from_numpy(row[f"{target}_logvar"].T))
        assert torch.equal(batch["condition"][0], torch.from_numpy(row[f"{condition}_mean"].T))


def test_the_condition_is_the_scaled_mean(make_stage: Callable[..., Any], name: str) -> None:
    stage = make_stage(name)
    batch = stage.task.collate(stage.rows((96, 60)), (1, 2))
    _, (_, _, condition, lengths, _) = run(stage, batch)
    scale = stage.task.scales[stage.task.condition]
    for i, n in enumerate(batch.lengths.tolist()):
        expected = scale.normalise(batch["condition"])[i, :, :n]
        torch.testing.assert_close(condition[i, :, :n], expected)
    assert torch.equal(lengths, batch.lengths)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.1, 0.1)])
def test_the_condition_is_dropped_at_its_rate(
    make_stage: Callable[..., Any], share: float, expected: float
) -> None:
    stage = make_stage("dit_m2a", DitLoss(condition_drop=share), (8, 8))
    n = 1 if share in (0.0, 1.0) else 4000
    rows, seeds = stage.rows((8,)) * max(n, 50), [seed_of("drop", i) for i in range(max(n, 50))]
    _, (_, t, _, _, drop) = run(stage, stage.task.collate(rows, seeds))
    assert drop.dtype == torch.bool and float(drop.float().mean()) == pytest.approx(expected, abs=0.02)
    assert int(t.min()) >= 0 and int(t.max()) < 1000
    if n > 50:  # all steps are drawn alike, whether or not the condition is dropped
        assert float(t.float().mean()) == pytest.approx(500, abs=25)
        assert float(t[drop].float().mean()) == pytest.approx(500, abs=80)


def test_drop_and_step_belong_to_the_sample(make_stage: Callable[..., Any], name: str) -> None:
    stage = make_stage(name)
    rows, seeds = stage.rows((96, 60, 48)), (7, 8, 9)
    _, (_, t, _, _, drop) = run(stage, stage.task.collate(rows, seeds))
    for i in range(3):
        _, (_, t_alone, _, _, drop_alone) = run(stage, stage.task.collate([rows[i]], [seeds[i]]))
        assert t_alone == t[i] and drop_alone == drop[i]


def test_loss_of_predicting_zero_is_the_mean_square_of_the_noise(make_stage: Callable[..., Any]) -> None:
    stage = make_stage("dit_m2a")  # predicts eps
    rows = stage.rows((96,)) * 200
    phase, _ = run(stage, stage.task.collate(rows, [seed_of("eps", i) for i in range(200)]))
    assert phase.total.item() == pytest.approx(1.0, abs=0.03)


def test_validation_keys_and_shapes(make_stage: Callable[..., Any], name: str) -> None:
    stage = make_stage(name)
    with torch.no_grad():
        values = stage.task.validate(stage.networks, stage.task.collate(stage.rows((96, 60, 48)), (1, 2, 3)))
    kinds = ("true", "shuffled", "null")
    assert set(values) == {*kinds, *(f"{kind}/t{k}" for kind in kinds for k in range(VALIDATION_BINS))}
    for kind in kinds:
        bins = torch.stack([values[f"{kind}/t{k}"] for k in range(VALIDATION_BINS)])
        torch.testing.assert_close(values[kind], bins.mean(0))
        assert bool(torch.isfinite(values[kind]).all())


def test_validation_uses_the_same_noise_for_all_conditions(make_stage: Callable[..., Any], name: str) -> None:
    stage, recorder = make_stage(name), Recorder()
    batch = stage.task.collate(stage.rows((96, 60)), (1, 2))
    values = stage.task.validate({"dit": recorder}, batch)
    assert torch.equal(values["true"], values["null"]) and torch.equal(values["true"], values["shuffled"])
    for k in range(VALIDATION_BINS):
        true, shuffled, null = (recorder.calls[i * VALIDATION_BINS + k] for i in range(3))
        assert torch.equal(true[0], shuffled[0]) and torch.equal(true[0], null[0])
        low, high = 1000 * k // VALIDATION_BINS, 1000 * (k + 1) // VALIDATION_BINS
        assert bool(((true[1] >= low) & (true[1] < high)).all())
        assert not true[4].any() and not shuffled[4].any() and bool(null[4].all())


def test_shuffled_condition_is_the_neighbours_repeated(make_stage: Callable[..., Any]) -> None:
    stage, recorder = make_stage("dit_m2a", length_frames=(96, 96)), Recorder()
    batch = stage.task.collate(stage.rows((96, 60)), (1, 2))
    stage.task.validate({"dit": recorder}, batch)
    true, shuffled = recorder.calls[0][2], recorder.calls[VALIDATION_BINS][2]
    assert torch.equal(shuffled[0, :, :30], true[1, :, :30])
    assert torch.equal(shuffled[0, :, 30:48], true[1, :, :18])
    assert torch.equal(shuffled[1, :, :30], true[0, :, :30]) and not shuffled[1, :, 30:].any()


def test_a_single_sample_has_no_shuffled_value(make_stage: Callable[..., Any], name: str) -> None:
    stage = make_stage(name)
    with torch.no_grad():
        values = stage.task.validate(stage.networks, stage.task.collate(stage.rows((96,)), (1,)))
    assert bool(torch.isnan(values["shuffled"]).all()) and bool(torch.isfinite(values["true"]).all())
