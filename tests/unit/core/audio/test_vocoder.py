"""Griffin-Lim: length, alignment, distance, and the sample's own randomness."""

from __future__ import annotations

import pytest
import torch

from momu_dist.core.audio.mel import HOP, SAMPLE_RATE, log_mel, mel_filterbank
from momu_dist.core.audio.vocoder import GriffinLim, Vocoder, magnitudes
from momu_dist.errors import DataError

CLICK_SAMPLES = [4000, 11111, 20480, 27003]


def piece() -> torch.Tensor:
    """Two seconds (1, n) of a chord with struck notes."""
    seconds = torch.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    decay = torch.exp(-6 * (seconds % 0.5))
    chord = torch.stack([torch.sin(2 * torch.pi * f * seconds) for f in (220.0, 277.2, 329.6, 1318.5)]).sum(
        dim=0
    )
    return (0.15 * decay * chord)[None]


def test_length_name_and_contract() -> None:
    vocoder: Vocoder = GriffinLim(n_iter=2)
    assert vocoder.name == "griffin-lim-2"
    for frames in (2, 7, 62):
        assert vocoder(torch.full((2, 80, frames), -2.0), [0, 1]).shape == (2, HOP * frames)
    assert vocoder(torch.zeros(0, 80, 9), []).shape == (0, HOP * 9)


def test_magnitudes_are_positive_and_have_the_mel() -> None:
    mel = log_mel(piece())
    found = magnitudes(mel)
    assert (found >= 0).all()
    again = torch.matmul(mel_filterbank(mel.device), found).clamp(min=1e-5).log10()
    assert (again - mel).abs().mean() < 0.03


def test_mel_of_the_audio_is_near_the_mel() -> None:
    mel = log_mel(piece())
    again = log_mel(GriffinLim()(mel, [3]))
    assert again.shape == mel.shape
    heard = mel > -3
    assert (again - mel)[heard].abs().mean() < 0.1


def test_clicks_stay_where_they_were() -> None:
    wav = torch.zeros(1, 2 * SAMPLE_RATE)
    wav[0, CLICK_SAMPLES] = 0.9
    audio = GriffinLim()(log_mel(wav), [0])[0].abs()
    for at in CLICK_SAMPLES:
        near = audio[at - 2000 : at + 2000]
        assert abs(int(near.argmax()) - 2000) < 48  # 3 ms


def test_a_sample_is_bit_equal_alone_and_in_a_batch_and_its_seed_matters() -> None:
    mels = torch.cat([log_mel(piece()), log_mel(piece().flip(-1)), log_mel(0.1 * piece())])
    vocoder = GriffinLim(n_iter=4)
    batch = vocoder(mels, [5, 6, 7])
    assert torch.equal(vocoder(mels[1:2], [6])[0], batch[1])
    assert torch.equal(vocoder(mels, [5, 6, 7]), batch)
    assert not torch.allclose(vocoder(mels[1:2], [8])[0], batch[1], atol=1e-3)


def test_silence_is_silent_and_finite() -> None:
    audio = GriffinLim(n_iter=4)(torch.full((1, 80, 30), -5.0), [0])
    assert audio.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("mel", "seeds", "said"),
    [
        (torch.zeros(80, 30), [0], "shape"),
        (torch.zeros(1, 64, 30), [0], "shape"),
        (torch.zeros(2, 80, 30), [0], "seeds"),
        (torch.full((1, 80, 30), float("nan")), [0], "not finite"),
    ],
)
def test_errors(mel: torch.Tensor, seeds: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        GriffinLim(n_iter=2)(mel, seeds)
