"""Log mel: shapes, floor, batching and errors."""

from __future__ import annotations

import pytest
import torch

from momu_dist.core.audio.mel import EDGE, HOP, MEL_FLOOR, MEL_RATE_HZ, log_mel
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
