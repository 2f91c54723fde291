"""Sound in: any audio file or a video's sound track as mono float32, and FLAC bytes for the shards."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import ArrayLike, NDArray

from momu_dist.errors import DataError

# Containers whose header says how long the sound is. MP3 does with a Xing header, WAV is read by
# `_wav_shortfall_s`; elsewhere FFmpeg estimates the length (raw AAC, other MP3) or takes it from the last page
# that is there (Ogg), which proves nothing, so a cut is noticed only where decoding fails.
_TELL_LENGTH = frozenset({"flac", "mov,mp4,m4a,3gp,3g2,mj2", "avi", "matroska,webm"})
_MISSING_S = 0.1  # encoders pad, and start late, by up to some 50 ms; more than this is missing
# Below and above these no recording is; resampling from 1 Hz would make 16,000 samples of each.
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 1_000_000
# Session descriptions and playlists are media to FFmpeg: what they name, it would open, addresses too.
_NOTHING_ELSE = {"protocol_whitelist": "none"}
_STREAMED_WAV = 0x7FFFF000  # sizes from here on are placeholders of programs that wrote to a pipe


def read_audio(
    source: str | Path | bytes,
    sample_rate: int = 16000,
    longest_s: float | None = None,
    cut_s: float | None = None,
) -> NDArray[np.float32]:
    """The sound of a file (n,), float32, mono (mean of the channels), resampled to `sample_rate` Hz.

    source: path or content of any file FFmpeg knows (wav, flac, mp3, ogg, m4a, mp4, avi, ...); of a video the
    first sound track. Decoded by PyAV, resampled by soxr at its high quality (through librosa); full scale is
    1. Raises DataError, in one sentence, if the file is missing, empty, no media, without sound, damaged,
    shorter than its header says, of a rate that no sound has, longer than `longest_s` (which stops reading there), or
    holds values that are not finite. With `cut_s` reading stops soon after so many seconds, whatever follows them,
    and `longest_s` plays no part. Never returns an empty array.
    """
    name = "audio bytes" if isinstance(source, bytes) else str(source)
    content = _content(source, name)
    missing_s = _wav_shortfall_s(content)
    if missing_s > _MISSING_S:
        raise DataError(_truncated(name, f"its header promises {missing_s:.2f} s more than there are"))
    wav, rate = _decode(content, name, longest_s, cut_s)
    if not np.isfinite(wav).all():
        raise DataError(
            f"{name} holds samples that are not finite, expected numbers; export it again or leave it out."
        )
    if rate != sample_rate:
        import librosa  # here, because all that writes or reads shards imports this module

        wav = librosa.resample(wav, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")
    return np.ascontiguousarray(wav, dtype=np.float32)


def sound_length_s(path: str | Path) -> float | None:
    """Seconds of sound that a media file's header tells or lets estimate, None if it does not; decodes nothing.

    Raises DataError if the file is missing, no media or without sound.
    """
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise DataError(f"{path} has no sound track, expected an audio file or a video with sound.")
            stream = container.streams.audio[0]
            if stream.duration is not None:
                return float(stream.duration * stream.time_base)
            return None if container.duration is None else container.duration / av.time_base
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), expected an audio or video file; check the path."
        ) from error


def encode_flac(wav: ArrayLike, sample_rate: int = 16000) -> bytes:
    """FLAC bytes, mono, 16 bit, of float samples (n,) in [-1, 1]; what lies outside is clipped.

    Sound that came from 16 bits comes back exactly. Raises DataError if wav is not (n,) with n >= 1 or not
    finite.
    """
    samples = np.asarray(wav, dtype=np.float64)
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        raise DataError(
            f"Audio of shape {samples.shape} cannot be stored as FLAC: expected (n,) finite samples, n >= 1."
        )
    pcm = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(content: bytes) -> tuple[NDArray[np.float32], int]:
    """Samples (n,) float32 and the rate in Hz of `encode_flac`'s bytes. Raises DataError if damaged."""
    try:
        wav, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"FLAC bytes of a shard cannot be decoded ({error}): expected what `momu prepare` wrote; prepare again."
        ) from error
    return wav, int(rate)


def _content(source: str | Path | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        content = source
    else:
        path = Path(source)
        if not path.is_file():
            found = "is a folder" if path.is_dir() else _is_no_file(path)
            raise DataError(f"{name} {found}, expected an audio or video file; check the path.")
        content = path.read_bytes()
    if not content:
        raise DataError(
            f"{name} is empty (0 bytes), expected an audio or video file; copy or download it again."
        )
    return content


def _is_no_file(path: Path) -> str:
    return "is a device or a pipe, no file" if path.exists() else "does not exist"


def _decode(
    content: bytes, name: str, longest_s: float | None, cut_s: float | None
) -> tuple[NDArray[np.float32], int]:
    """Mono samples at the file's own rate, and that rate; raises DataError if anything is missing before the cut."""
    try:
        with av.open(io.BytesIO(content), metadata_errors="ignore", options=_NOTHING_ELSE) as container:
            if not container.streams.audio:
                raise DataError(f"{name} has no sound track, expected an audio file or a video with sound.")
            stream = container.streams.audio[0]
            promised_s = _promised_s(container, stream, content)
            rate = stream.rate
            if not _MIN_RATE_HZ <= rate <= _MAX_RATE_HZ:
                raise DataError(
                    f"{name} says it holds {rate} samples a second, expected {_MIN_RATE_HZ} to {_MAX_RATE_HZ}; "
                    "its header is wrong, so export it again."
                )
            chunks, n = [], 0
            for chunk in _mono_chunks(container, stream):
                chunks.append(chunk)
                n += len(chunk)
                if cut_s is not None:
                    if n >= cut_s * rate:
                        promised_s = 0.0
                        break
                elif longest_s is not None and n > (longest_s + _MISSING_S) * rate:
                    raise DataError(
                        f"{name} is longer than {longest_s:g} s, the most that is taken; cut it, or say with "
                        "seconds how much of it to take."
                    )
    except av.error.FFmpegError as error:
        if _is_other(content):
            raise DataError(
                f"{name} is no audio that is known but text or an archive, expected an audio file or a video with sound; "
                "see that it is the right one."
            ) from error
        reason = f"the decoder stopped with: {error.strerror}"
        raise DataError(_truncated(name, reason)) from error
    wav = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if wav.size == 0:
        raise DataError(f"{name} holds no samples, expected sound; copy or download it again.")
    if promised_s - wav.size / rate > _MISSING_S:
        reason = f"its header promises {promised_s:.2f} s of sound, {wav.size / rate:.2f} s could be read"
        raise DataError(_truncated(name, reason))
    return wav, rate


def _mono_chunks(
    container: av.container.InputContainer, stream: av.AudioStream
) -> Iterator[NDArray[np.float32]]:
    # Sample format only; rate and channels stay. Packed: PyAV crashes on planar frames of 9 channels and more.
    to_float = av.AudioResampler(format="flt")
    for frame in container.decode(stream):
        for part in to_float.resample(frame):
            channels = part.to_ndarray().reshape(-1, part.layout.nb_channels)
            yield channels.mean(axis=1, dtype=np.float32)


def _promised_s(container: av.container.InputContainer, stream: av.AudioStream, content: bytes) -> float:
    """Seconds of sound that the container's header tells, 0 if it does not tell."""
    kind = container.format.name
    if kind not in _TELL_LENGTH and not (kind == "mp3" and _has_xing_header(content)):
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:  # else it may be the picture's length
        return container.duration / av.time_base
    return 0.0


def _has_xing_header(content: bytes) -> bool:
    """Whether an MP3's first frame, past any ID3 tag (which may hold a picture), tells the length."""
    start = 0
    if content[:3] == b"ID3" and len(content) >= 10:
        high, b, c, low = content[6:10]
        start = 10 + (high << 21 | b << 14 | c << 7 | low)
    first = content[start : start + 2048]
    return b"Xing" in first or b"Info" in first


def _wav_shortfall_s(content: bytes) -> float:
    """Seconds a WAV's data chunk promises beyond the file's end (FFmpeg silently plays what is there)."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return 0.0
    position, bytes_per_s = 12, 0
    while position + 8 <= len(content):
        kind, size = (
            content[position : position + 4],
            int.from_bytes(content[position + 4 : position + 8], "little"),
        )
        position += 8
        if kind == b"fmt ":
            bytes_per_s = int.from_bytes(content[position + 8 : position + 12], "little")
        if kind == b"data":
            missing = position + size - len(content)
            return missing / bytes_per_s if bytes_per_s and size < _STREAMED_WAV else 0.0
        position += size + size % 2
    return 0.0


def _is_other(content: bytes) -> bool:
    """Whether what cannot be decoded is nothing that was ever media: an archive (npz too), a NumPy file, text."""
    begin = content[:512]
    text = all(letter >= 32 or letter in b"\t\n\r\f" for letter in begin.removeprefix(codecs.BOM_UTF8))
    return begin.startswith((b"PK", b"\x93NUMPY")) or (text and 127 not in begin and _is_utf8(begin))


def _is_utf8(begin: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begin)  # whose last letter may be cut
    except UnicodeDecodeError:
        return False
    return True


def _truncated(name: str, reason: str) -> str:
    return f"{name} is truncated or damaged: {reason}; expected a whole media file, so copy or download it again."
