"""Discriminators of waveforms: who sees what, shapes, and the reference's names."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import weight_norm

from momu_dist.core.models.wave_discriminator import (
    PERIODS,
    RESOLUTIONS,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
    PeriodDiscriminator,
    ResolutionDiscriminator,
    WaveDiscriminators,
)

N = 4096


@pytest.fixture
def wav() -> torch.Tensor:
    return torch.randn(3, N, generator=torch.Generator().manual_seed(0)) * 0.1


def test_one_judgement_a_period_and_a_resolution(wav: torch.Tensor) -> None:
    judgements = WaveDiscriminators(2)(wav)
    assert len(judgements) == len(PERIODS) + len(RESOLUTIONS)
    for judgement in judgements:
        assert len(judgement) == 6 and all(len(layer) == len(wav) for layer in judgement)
        assert judgement[-1].shape[1] == 1


def test_parameters_of_the_references_width() -> None:
    count = [
        sum(p.numel() for p in net(32).parameters())
        for net in (MultiPeriodDiscriminator, MultiResolutionDiscriminator)
    ]
    assert count == [41_105_770, 280_902]


@pytest.mark.parametrize("period", PERIODS)
def test_a_column_is_every_period_th_sample(period: int, wav: torch.Tensor) -> None:
    net = PeriodDiscriminator(period, 2)
    changed = wav.clone()
    changed[:, 1000] += 1.0
    for before, after in zip(net(wav), net(changed), strict=True):
        assert before.shape[-1] == period
        columns = (before != after).any(0).any(0).any(0)
        assert columns.nonzero().flatten().tolist() == [1000 % period]


def test_the_end_is_reflected_up_to_a_multiple_of_the_period(wav: torch.Tensor) -> None:
    net = PeriodDiscriminator(7, 2)
    short = wav[:, :4095]
    longer = torch.cat([short, short[:, [-2, -3, -4, -5, -6, -7]][:, : -4095 % 7]], dim=1)
    torch.testing.assert_close(net(short)[-1], net(longer)[-1])


@pytest.mark.parametrize("sizes", RESOLUTIONS)
def test_a_tone_is_a_line_of_the_spectrogram(sizes: tuple[int, int, int]) -> None:
    n_fft, hop, _ = sizes
    net = ResolutionDiscriminator(*sizes, ch=2)
    n = 16000
    tone = torch.sin(2 * torch.pi * 2000.0 * torch.arange(n) / 16000)
    spectrogram = net.spectrogram(tone[None])
    assert spectrogram.shape == (1, n_fft // 2 + 1, 1 + (n + 2 * ((n_fft - hop) // 2) - n_fft) // hop)
    assert set(spectrogram[0, :, 10:-10].argmax(0).tolist()) == {2000 * n_fft // 16000}


def test_samples_do_not_see_each_other(wav: torch.Tensor) -> None:
    net = WaveDiscriminators(2)
    for together, alone in zip(net(wav), net(wav[1:2]), strict=True):
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[1:2], b)


def test_every_parameter_gets_a_gradient_and_silence_a_finite_one(wav: torch.Tensor) -> None:
    net = WaveDiscriminators(2)
    wav = torch.cat([wav, torch.zeros(1, N)]).requires_grad_()
    torch.stack([judgement[-1].square().mean() for judgement in net(wav)]).sum().backward()
    assert wav.grad is not None and bool(torch.isfinite(wav.grad).all())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_references_names_load() -> None:
    net = PeriodDiscriminator(2, 2)
    theirs = weight_norm(torch.nn.Conv2d(1, 2, (5, 1))).state_dict()
    mine = net.state_dict()
    state = {name: value for name, value in mine.items() if not name.startswith("convs.0.")}
    state |= {f"convs.0.{name}": value for name, value in theirs.items()}
    assert {"convs.0.weight_g", "convs.0.weight_v", "convs.0.bias"} <= set(state)
    net.load_state_dict(state)
    assert torch.equal(net.state_dict()["convs.0.parametrizations.weight.original1"], theirs["weight_v"])
