from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pyloudnorm
import pytest
import soundfile

from momu_dist.data.audio_io import read_audio
from momu_dist.errors import DataError
from momu_dist.inference.media import normalise_loudness, write_mp4, write_wav

RATE = 16000
RATE_HZ = 62.5


def noise(seconds: float, gain: float = 0.02) -> np.ndarray:
    return gain * np.random.default_rng(0).standard_normal(round(seconds * RATE))


def standing() -> np.ndarray:
    """(14, 2) px: somebody with arms down, y growing downwards."""
    return np.array(
        [[50, 10], [50, 25], [40, 26], [37, 42], [36, 56], [60, 26], [63, 42], [64, 56]]
        + [[44, 58], [43, 78], [42, 98], [56, 58], [57, 78], [58, 98]],
        dtype=float,
    )


@pytest.mark.parametrize("gain", [0.001, 0.02, 0.15])
def test_loudness_is_the_target_whatever_it_was(gain: float) -> None:
    out = normalise_loudness(noise(3, gain), RATE, target_lufs=-23)
    assert pyloudnorm.Meter(RATE).integrated_loudness(out) == pytest.approx(-23, abs=0.1)


def test_the_peak_limit_beats_the_target() -> None:
    clicks = np.zeros(3 * RATE)
    clicks[:: RATE // 4] = 0.5
    out = normalise_loudness(clicks, RATE)
    assert np.abs(out).max() == pytest.approx(10 ** (-1 / 20), rel=1e-5)


@pytest.mark.parametrize("wav", [np.zeros(2 * RATE), np.zeros(10), np.zeros(0), noise(0.1), noise(0.4)])
def test_silence_and_what_is_too_short_to_be_loud_stay_as_they_are(wav: np.ndarray) -> None:
    out = normalise_loudness(wav, RATE)
    np.testing.assert_allclose(out, wav, atol=1e-7)
    assert out.dtype == np.float32


def test_a_short_clip_still_keeps_under_the_peak_limit() -> None:
    assert np.abs(normalise_loudness(np.array([3.0, -2.0]), RATE)).max() < 0.9


def test_what_is_no_sound_is_refused() -> None:
    for bad in (np.zeros((2, 100)), np.array([np.nan])):
        with pytest.raises(DataError, match="expected"):
            normalise_loudness(bad, RATE)


def test_the_wav_is_mono_16_bit_at_its_rate(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", noise(1), RATE)
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (RATE, 1, RATE, "PCM_16")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3.2 s: at 1.5 s the dancer's right arm goes up and a click sounds."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    n = round(3.2 * RATE_HZ)
    motion = np.tile(standing(), (n, 1, 1))
    up = (np.arange(n) + 0.5) / RATE_HZ > 1.5
    motion[up, 3], motion[up, 4] = [25, 15], [20, 2]
    wav = np.zeros(round(3.2 * RATE))
    wav[round(1.5 * RATE) :][:80] = 0.8
    write_mp4(path, motion, RATE_HZ, wav, RATE, fps=25, size_px=160)
    return path


def pictures(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.array([f.time for f in frames]), np.stack([f.to_ndarray(format="rgb24") for f in frames])


def test_a_browser_can_play_it(video: Path) -> None:
    with av.open(str(video)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert picture.codec_context.pix_fmt == "yuv420p"
        assert (picture.width, picture.height, picture.average_rate) == (160, 160, 25)
        assert sound.codec_context.name == "aac"
        if "libx264" in av.codecs_available or "libopenh264" in av.codecs_available:
            assert picture.codec_context.name == "h264"
    content = video.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), (
        "the index stands in front: it plays while loading"
    )


def test_sound_and_picture_move_together(video: Path) -> None:
    times_s, frames = pictures(video)
    assert len(frames) == 80
    change = np.abs(np.diff(frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    moved_s = times_s[1:][change.argmax()]
    wav = read_audio(video, RATE)
    click_s = np.flatnonzero(np.abs(wav) > 0.5 * np.abs(wav).max())[0] / RATE
    assert click_s == pytest.approx(1.5, abs=0.01)
    assert moved_s == pytest.approx(1.5, abs=0.5 / 25 + 1e-6)
    assert len(wav) == pytest.approx(3.2 * RATE, abs=0.05 * RATE)


def test_right_is_orange_left_is_blue(video: Path) -> None:
    frame = pictures(video)[1][10].astype(int)
    orange = (frame[..., 0] > 180) & (frame[..., 2] < 90)
    blue = (frame[..., 2] > 180) & (frame[..., 0] < 130)
    assert orange.sum() > 30 and blue.sum() > 30
    assert np.nonzero(orange)[1].mean() < np.nonzero(blue)[1].mean(), "the dancer faces us"


@pytest.mark.parametrize(
    ("motion_s", "sound_s", "n_pictures"), [(1.0, 2.0, 50), (2.0, 1.0, 50), (2.0, 0.0, 50)]
)
def test_the_longer_one_sets_the_length(
    motion_s: float, sound_s: float, n_pictures: int, tmp_path: Path
) -> None:
    motion = np.tile(standing(), (round(motion_s * RATE_HZ), 1, 1))
    write_mp4(tmp_path / "a.mp4", motion, RATE_HZ, noise(sound_s), RATE, size_px=64)
    assert len(pictures(tmp_path / "a.mp4")[0]) == n_pictures


def test_missing_joints_are_left_out_and_bad_motion_is_refused(tmp_path: Path) -> None:
    motion = np.tile(standing(), (10, 1, 1))
    motion[:, 4] = np.nan
    motion[5] = np.nan
    write_mp4(tmp_path / "a.mp4", motion, RATE_HZ, noise(0.1), RATE, size_px=64)
    assert pictures(tmp_path / "a.mp4")[1].std() > 5
    for bad, size in ((np.zeros((0, 14, 2)), 64), (np.zeros((5, 17, 3)), 64), (motion, 63)):
        with pytest.raises(DataError, match="cannot be filmed"):
            write_mp4(tmp_path / "b.mp4", bad, RATE_HZ, noise(0.1), RATE, size_px=size)
    assert not (tmp_path / "b.mp4").exists()
