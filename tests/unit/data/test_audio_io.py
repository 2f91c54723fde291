from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from momu_dist.data.audio_io import decode_flac, encode_flac, read_audio, sound_length_s
from momu_dist.errors import DataError

RATE = 16000


def tone(seconds: float = 2.0, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def with_soundfile(wav: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def with_av(wav: np.ndarray, kind: str, codec: str, picture: bool = False, sound: bool = True) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        if picture:
            video = container.add_stream("mpeg4", rate=25)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        if sound:
            audio = container.add_stream(codec, rate=RATE)
            audio.layout = "mono"
            fifo = av.AudioFifo()
            frame = av.AudioFrame.from_ndarray(wav[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            for part in av.AudioResampler(format=audio.format, rate=RATE).resample(frame):
                fifo.write(part)
            while (part := fifo.read(audio.frame_size or 1024, partial=True)) is not None:
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
        if picture:
            for _ in range(50):
                container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(video.encode(None))
    return buffer.getvalue()


def encoded(kind: str) -> bytes:
    wav = tone()
    if kind == "mp4":
        return with_av(wav, "mp4", "aac", picture=True)
    if kind == "avi":
        return with_av(wav, "avi", "mp3", picture=True)
    return with_soundfile(wav, RATE, kind)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "mp4", "avi"])
def test_any_container_gives_its_sound(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.bin"  # the content decides, not the name
    path.write_bytes(encoded(kind))
    wav = read_audio(path)
    assert wav.dtype == np.float32 and wav.ndim == 1
    assert len(wav) == pytest.approx(2 * RATE, abs=0.1 * RATE)
    middle = wav[RATE // 2 : RATE // 2 + RATE]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_full_scale_is_one_for_every_sample_format(subtype: str) -> None:
    wav = read_audio(with_soundfile(tone(), RATE, "WAV", subtype))
    np.testing.assert_allclose(wav, tone(), atol=0.02 if subtype == "PCM_U8" else 1e-4)


def test_channels_are_averaged_and_the_rate_converted() -> None:
    left, right = tone(1.5, 44100), tone(1.5, 44100, 2000.0)
    wav = read_audio(with_soundfile(np.stack([left, right], 1), 44100, "WAV", "FLOAT"))
    assert len(wav) == 24000
    expected = (tone(1.5) + tone(1.5, hz=2000.0)) / 2
    np.testing.assert_allclose(wav[2000:-2000], expected[2000:-2000], atol=1e-3)


def test_what_the_new_rate_cannot_hold_is_filtered_out() -> None:
    wav = read_audio(with_soundfile(tone(1, 44100, 11000.0), 44100, "WAV", "FLOAT"))
    assert np.abs(wav[1000:-1000]).max() < 1e-3


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "mp4", "avi"])
def test_a_file_cut_short_is_named_as_such(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    content = encoded(kind)
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(DataError, match=r"cut\.bin is truncated or damaged: .*again\.$"):
        read_audio(path)


@pytest.mark.parametrize("kind", ["FLAC", "MP3", "mp4"])
def test_garbage_inside_is_noticed(kind: str) -> None:
    content = bytearray(encoded(kind))
    half, quarter = len(content) // 2, len(content) // 4
    content[half : half + quarter] = np.random.default_rng(0).bytes(quarter)
    with pytest.raises(DataError, match="audio bytes is truncated or damaged"):
        read_audio(bytes(content))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_from_a_pipe_with_no_length_is_whole(size: int) -> None:
    content = bytearray(with_soundfile(tone(), RATE, "WAV", "PCM_16"))
    at = content.index(b"data") + 4
    content[at : at + 4] = size.to_bytes(4, "little")
    assert len(read_audio(bytes(content))) == 2 * RATE


def test_a_missing_file_a_folder_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.wav does not exist, expected an audio"):
        read_audio(tmp_path / "nowhere.wav")
    with pytest.raises(DataError, match="is a folder"):
        read_audio(tmp_path)
    with pytest.raises(DataError, match="0 bytes"):
        read_audio(b"")
    with pytest.raises(DataError, match="holds no samples|truncated or damaged"):
        read_audio(with_soundfile(np.zeros(0, np.float32), RATE, "WAV"))


def test_no_media_no_sound_and_not_finite() -> None:
    for other in (
        b"this is a letter, not a song " * 50,
        b"PK\x03\x04" + bytes(500),
        b"\x93NUMPY" + bytes(500),
        b'{"a": 1}',
    ):
        with pytest.raises(DataError, match="is no audio that is known"):
            read_audio(other)
    with pytest.raises(DataError, match="no sound track"):
        read_audio(with_av(tone(), "mp4", "aac", picture=True, sound=False))
    broken = tone()
    broken[100] = np.nan
    with pytest.raises(DataError, match="not finite"):
        read_audio(with_soundfile(broken, RATE, "WAV", "FLOAT"))


def test_flac_keeps_16_bit_sound_exactly() -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    wav, rate = decode_flac(encode_flac(pcm / 32768, 22050))
    assert rate == 22050 and wav.dtype == np.float32
    np.testing.assert_array_equal(wav * 32768, pcm)


def test_flac_clips_what_is_too_loud_and_refuses_what_is_no_sound() -> None:
    wav, _ = decode_flac(encode_flac(np.array([2.0, -2.0])))
    np.testing.assert_allclose(wav, [1.0, -1.0], atol=1e-4)
    for bad in (np.zeros(0), np.zeros((2, 3)), np.array([np.nan])):
        with pytest.raises(DataError, match="cannot be stored as FLAC"):
            encode_flac(bad)
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_flac(encode_flac(tone())[:20])


def test_many_channels_become_their_mean() -> None:
    channels = tone()[:, None] * np.linspace(0.1, 0.9, 9, dtype=np.float32)
    wav = read_audio(with_soundfile(channels, RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(wav, channels.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("wav", lambda: with_soundfile(tone(), RATE, "WAV")),
        ("flac", lambda: with_soundfile(tone(), RATE, "FLAC")),
        ("mp4", lambda: with_av(tone(), "mp4", "aac", picture=True)),
    ],
)
def test_the_length_is_told_from_the_header(kind: str, content: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / f"sound.{kind}"
    path.write_bytes(content())
    assert sound_length_s(path) == pytest.approx(2.0, abs=0.1)


def test_no_length_without_sound(tmp_path: Path) -> None:
    mute, text = tmp_path / "mute.mp4", tmp_path / "text.wav"
    mute.write_bytes(with_av(tone(), "mp4", "aac", picture=True, sound=False))
    text.write_text("letter")
    with pytest.raises(DataError, match="no sound track"):
        sound_length_s(mute)
    for path in (text, tmp_path / "gone.wav"):
        with pytest.raises(DataError, match="cannot be read"):
            sound_length_s(path)


def test_a_rate_that_no_sound_has_is_refused_before_it_is_resampled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(48000), 1)
    with pytest.raises(DataError, match=r"a\.wav says it holds 1 samples a second, expected 1000 to"):
        read_audio(tmp_path / "a.wav")


def test_sound_longer_than_is_taken_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(5 * 8000), 8000)
    assert len(read_audio(tmp_path / "a.wav", longest_s=5.0)) == 5 * 16000
    with pytest.raises(DataError, match=r"a\.wav is longer than 4 s, the most that is taken; cut it"):
        read_audio(tmp_path / "a.wav", longest_s=4.0)


def test_what_follows_the_cut_is_not_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(50 * 8000), 8000)
    content = (tmp_path / "a.flac").read_bytes()
    for source in (content, content[: len(content) // 2]):
        assert 3.0 <= len(read_audio(source, cut_s=3.0)) / 16000 < 4.0
    assert len(read_audio(content, cut_s=60.0)) == 50 * 16000
    with pytest.raises(DataError, match="truncated"):
        read_audio(content[: len(content) // 2], cut_s=60.0)


def test_a_device_is_not_called_missing() -> None:
    with pytest.raises(DataError, match="/dev/null is a device or a pipe"):
        read_audio("/dev/null")
