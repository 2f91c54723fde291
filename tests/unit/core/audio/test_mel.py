"""Log mel: shapes, floor, batching and errors."""

from __future__ import annotations

import pytest
import torch

from momu_dist.core.audio.mel import _BLOCK, EDGE, HOP, MEL_FLOOR, MEL_RATE_HZ, log_mel, log_mel_unchecked
from momu_dist.errors import ClipError


def test_constants() -> None:
    assert (MEL_RATE_HZ, EDGE) == (62.5, 384)


@pytest.mark.parametrize("n", [EDGE + 1, 511, 512, 5000])
def test_frames_are_whole_hops(n: int) -> None:
    assert log_mel(torch.zeros(n)).shape == (80, n // HOP)


def test_a_clip_alone_is_the_clip_in_a_batch() -> None:
    clips = 0.3 * torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    batch = log_mel(clips)
    for clip, mel in zip(clips, batch, strict=True):
        torch.testing.assert_close(log_mel(clip), mel, atol=1e-5, rtol=0)
    assert log_mel(clips[:0]).shape == (0, 80, 15)


@pytest.mark.parametrize("seed", range(8))
def test_in_blocks_or_at_once_is_the_same(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    n_clips = int(torch.randint(1, 4, (), generator=random))
    n = int(torch.randint(EDGE + 1, 3 * _BLOCK * HOP, (), generator=random))
    loudness = 10 ** (6 * torch.rand(n_clips, 1, generator=random) - 5)  # from nearly silent to clamped
    clips = loudness * torch.randn(n_clips, n, generator=random)
    torch.testing.assert_close(log_mel(clips), log_mel_unchecked(clips), atol=5e-6, rtol=0)


@pytest.mark.parametrize("frames", [_BLOCK - 1, _BLOCK, _BLOCK + 1, 2 * _BLOCK])
def test_blocks_end_where_the_clip_ends(frames: int) -> None:
    clip = 0.3 * torch.randn(1, frames * HOP + 255, generator=torch.Generator().manual_seed(frames))
    torch.testing.assert_close(log_mel(clip), log_mel_unchecked(clip), atol=5e-6, rtol=0)


def test_a_gradient_flows_where_one_is_asked_for() -> None:
    wav = (0.3 * torch.randn(4000, generator=torch.Generator().manual_seed(0))).requires_grad_()
    mel = log_mel(wav)
    mel.mean().backward()
    assert wav.grad is not None and wav.grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(log_mel(wav), mel.detach(), atol=5e-6, rtol=0)


def test_silence_is_the_floor_and_loud_is_clamped() -> None:
    assert (log_mel(torch.zeros(1000)) == MEL_FLOOR).all()
    tone = torch.sin(torch.arange(4000.0))
    torch.testing.assert_close(log_mel(torch.sign(tone) * 9), log_mel(torch.sign(tone)))


def test_frame_i_is_centred_on_its_half_hop() -> None:
    click = torch.zeros(8192)
    click[int(10.5 * HOP)] = 1.0
    energy = log_mel(click).mean(dim=0)
    assert int(energy.argmax()) == 10
    torch.testing.assert_close(energy[9], energy[11], atol=1e-2, rtol=0)


def test_errors() -> None:
    with pytest.raises(ClipError, match="too short"):
        log_mel(torch.zeros(EDGE))
    with pytest.raises(ClipError, match="mono"):
        log_mel(torch.zeros(2, 2, 4000))
    with pytest.raises(ClipError, match="not finite"):
        log_mel(torch.full((4000,), float("nan")))
    for value in ("nan", "inf", "-inf"):
        wav = torch.zeros(2, 4000)
        wav[1, 1234] = float(value)
        with pytest.raises(ClipError, match="not finite"):
            log_mel(wav)
