"""The vocoder's phases, its segments, and who gets gradients when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from momu_dist.core.audio.mel import log_mel
from momu_dist.core.losses.vocoder import mel_l1
from momu_dist.core.metrics.spectral import mel_distance, stft_distance
from momu_dist.core.tasks.vocoder import VocoderLoss

LOSS = VocoderLoss(gan_start=0.25, disc_ch=2)


@pytest.fixture
def stage(make_stage: Callable[..., Any]) -> Any:
    return make_stage("vocoder", LOSS, (32, 32))


@pytest.fixture
def batch(stage: Any) -> Any:
    return stage.task.collate(stage.rows((96, 60)), (1, 2))


def test_discriminators_join_at_their_share_of_the_run(stage: Any, batch: Any) -> None:
    before = list(stage.task.phases(stage.networks, batch, 0.249))
    assert [phase.network for phase in before] == ["vocoder"] and set(before[0].parts) == {"total", "mel"}
    after = list(stage.task.phases(stage.networks, batch, 0.25))
    assert [phase.network for phase in after] == ["vocoder", "disc"]
    assert set(after[0].parts) == {"total", "mel", "gan", "features"} and set(after[1].parts) == {"disc"}


def test_total_is_the_weighted_sum(stage: Any, batch: Any) -> None:
    phase = next(iter(stage.task.phases(stage.networks, batch, 0.5)))
    parts = {name: float(value.detach()) for name, value in phase.parts.items()}
    assert parts["total"] == pytest.approx(45 * parts["mel"] + parts["gan"] + 2 * parts["features"], rel=1e-6)
    with torch.no_grad():
        made = stage.networks["vocoder"](batch["mel"])[:, 0]
    assert parts["mel"] == pytest.approx(float(mel_l1(batch["waveform"], made)), rel=1e-6)


def test_mel_and_waveform_are_cropped_at_the_same_time(stage: Any) -> None:
    (row,) = stage.rows((200,))
    frames = np.arange(200, dtype=np.float32)
    row.update(mel=np.tile(frames, (80, 1)), waveform=np.repeat(frames, 256))
    for seed in range(5):
        batch = stage.task.collate([row], [seed])
        assert batch["mel"].shape == (1, 80, 32) and batch["waveform"].shape == (1, 8192)
        assert torch.equal(batch["mel"][0, 0].repeat_interleave(256), batch["waveform"][0])


def test_a_short_clip_is_followed_by_silence(stage: Any) -> None:
    (row,) = stage.rows((20,))
    batch = stage.task.collate([row], [3])
    np.testing.assert_array_equal(batch["mel"][0, :, :20], row["mel"])
    np.testing.assert_array_equal(batch["waveform"][0, : 20 * 256], row["waveform"])
    assert bool((batch["waveform"][0, 20 * 256 :] == 0).all())
    assert torch.equal(batch["mel"][0, :, 20:], log_mel(torch.zeros(12 * 256)))
    assert batch.lengths.tolist() == [32]


def test_each_phase_leaves_the_other_network_alone(stage: Any, batch: Any) -> None:
    phases = stage.task.phases(stage.networks, batch, 0.5)
    next(phases).total.backward()
    assert all(parameter.grad is None for parameter in stage.networks["disc"].parameters())
    before = [parameter.grad.clone() for parameter in stage.networks["vocoder"].parameters()]
    next(phases).total.backward()
    assert all(parameter.grad is not None for parameter in stage.networks["disc"].parameters())
    for parameter, gradient in zip(stage.networks["vocoder"].parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_the_gan_reaches_the_vocoder(make_stage: Callable[..., Any], batch: Any) -> None:
    def gradient(progress: float) -> torch.Tensor:
        stage = make_stage("vocoder", LOSS, (32, 32))
        next(iter(stage.task.phases(stage.networks, batch, progress))).total.backward()
        return torch.cat([p.grad.flatten() for p in stage.networks["vocoder"].parameters()])

    assert not torch.allclose(gradient(0.0), gradient(0.5))


def test_validation_reports_the_metrics(stage: Any, batch: Any) -> None:
    with torch.no_grad():
        values = stage.task.validate(stage.networks, batch)
        made = stage.networks["vocoder"](batch["mel"])[:, 0]
    torch.testing.assert_close(values["mel_distance"], mel_distance(batch["waveform"], made))
    torch.testing.assert_close(values["stft_distance"], stft_distance(batch["waveform"], made))
