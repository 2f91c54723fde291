"""The motion VAE: drawn to a music VAE that stays as it is; samples without categories do not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from momu_dist.core.losses.contrast import ContrastConfig
from momu_dist.core.tasks.motion_vae import MotionVaeLoss

SEEDS = (1, 2)


@pytest.fixture
def stage(make_stage: Callable[..., Any]) -> Any:
    return make_stage("motion_vae")


def phase_of(stage: Any, rows: list[Any]) -> Any:
    return next(iter(stage.task.phases(stage.networks, stage.task.collate(rows, SEEDS), 0.0)))


def test_total_is_equation_11(stage: Any) -> None:
    phase = phase_of(stage, stage.rows((96, 60)))
    loss, parts = stage.task.loss, phase.parts
    assert set(parts) == {"total", "rec", "kl", "contrast"} and parts["contrast"] > 0
    expected = parts["rec"] + loss.kl_weight * parts["kl"] + loss.contrast_weight * parts["contrast"]
    assert phase.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_music_vae_stays_as_it_is(stage: Any) -> None:
    phase_of(stage, stage.rows((96, 60))).total.backward()
    assert not stage.task.music_vae.training
    assert all(p.grad is None and not p.requires_grad for p in stage.task.music_vae.parameters())
    assert not any(
        mine is frozen
        for mine in stage.networks["vae"].parameters()
        for frozen in stage.task.music_vae.parameters()
    )


def test_one_category_counts_nothing_and_still_has_a_gradient(stage: Any) -> None:
    rows = stage.rows((96, 60))
    for row in rows:
        row["amplitude"] = np.full(len(row["amplitude"]), 0.5, np.float32)
    phase = phase_of(stage, rows)
    assert phase.parts["contrast"].item() == 0.0
    phase.parts["contrast"].backward()
    assert sum(p.grad is not None for p in stage.networks["vae"].parameters()) > 0


def test_a_latents_amplitude_is_the_larger_of_its_two_frames(make_stage: Callable[..., Any]) -> None:
    """Loud odd frames alone must make loud latents, so that quiet and loud clips can be told apart."""
    stage = make_stage("motion_vae", MotionVaeLoss(contrast=ContrastConfig(64, 2, (2, 2))), (96, 96))
    rows = stage.rows((96, 96))
    for row in rows:
        row["amplitude"] = np.zeros(96, np.float32)
        row["amplitude"][1:48:2] = 1.0
    assert phase_of(stage, rows).parts["contrast"].item() > 0.0


def test_the_contrast_moves_the_motion_encoder(make_stage: Callable[..., Any]) -> None:
    def gradient(weight: float) -> torch.Tensor:
        stage = make_stage(
            "motion_vae", MotionVaeLoss(contrast_weight=weight, contrast=ContrastConfig(clip_latents=(4, 8)))
        )
        phase_of(stage, stage.rows((96, 60))).total.backward()
        return torch.cat(
            [p.grad.flatten() for n, p in stage.networks["vae"].named_parameters() if "encoder" in n]
        )

    assert not torch.allclose(gradient(0.0), gradient(1.0))


def test_validation_reports_the_terms_of_the_loss_by_sample(stage: Any) -> None:
    rows = stage.rows((96, 60))
    with torch.no_grad():
        values = stage.task.validate(stage.networks, stage.task.collate(rows, SEEDS))
        parts = phase_of(stage, rows).parts
    assert set(values) == {"rec", "kl", "contrast"}
    for name, value in values.items():
        assert value.shape == (2,) and len(set(value.tolist())) == 2
        assert value.mean().item() == pytest.approx(parts[name].item(), rel=1e-5)


def test_validation_has_no_contrast_where_there_is_one_category(stage: Any) -> None:
    rows = stage.rows((96, 60))
    rows[0]["amplitude"] = np.full(len(rows[0]["amplitude"]), 0.5, np.float32)
    with torch.no_grad():
        values = stage.task.validate(stage.networks, stage.task.collate(rows, SEEDS))
        contrast = phase_of(stage, rows).parts["contrast"]
    assert values["contrast"].isnan().tolist() == [True, False]
    assert values["contrast"][1].item() == pytest.approx(2 * contrast.item(), rel=1e-5)


def test_sum_reduction_counts_every_element(make_stage: Callable[..., Any]) -> None:
    means, sums = (
        make_stage("motion_vae", MotionVaeLoss(reduction=r, contrast=ContrastConfig(clip_latents=(4, 8))))
        for r in ("mean", "sum")
    )
    rows = means.rows((60,))
    mean, total = (
        next(iter(stage.task.phases(stage.networks, stage.task.collate(rows, SEEDS[:1]), 0.0))).parts
        for stage in (means, sums)
    )
    n_elements = int(means.task.collate(rows, SEEDS[:1]).lengths) * 28
    for name in ("rec", "kl"):
        assert total[name].item() == pytest.approx(n_elements * mean[name].item(), rel=1e-4)
    assert total["contrast"].item() == pytest.approx(mean["contrast"].item())
