"""What a person can hear and watch: loudness-normalised wav, and an mp4 of the dancer with the sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyloudnorm
import soundfile
from numpy.typing import ArrayLike, NDArray

from momu_dist.errors import DataError
from momu_dist.inference.figure import Painter

# What writing may raise besides OSError.
MEDIA_ERRORS = (av.error.FFmpegError, soundfile.SoundFileError)
_LOUDNESS_BLOCK_S = 0.4  # ITU-R BS.1770: what is shorter has no loudness
_SOUND_HZ = 48000  # of the mp4: every player takes it, whatever rate the vocoder has
_VIDEO_CODECS = ("libx264", "libopenh264", "mpeg4")  # browsers play the first two


def normalise_loudness(
    wav: ArrayLike, sample_rate: int, target_lufs: float = -14.0, peak_dbfs: float = -1.0
) -> NDArray[np.float32]:
    """Samples (n,) float32 at `target_lufs` (ITU-R BS.1770), or as near as the peak limit lets.

    One gain for the whole clip, so nothing is compressed: where the peak would pass `peak_dbfs`, the gain is
    smaller. Clips under 0.4 s and silence have no loudness and are only held under the peak limit. Empty
    stays empty. Raises DataError if wav is not (n,) or not finite.
    """
    samples = np.asarray(wav, dtype=np.float64)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise DataError(f"Audio of shape {samples.shape} cannot be written: expected (n,) finite samples.")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return samples.astype(np.float32)
    gain = 1.0
    if len(samples) > _LOUDNESS_BLOCK_S * sample_rate:
        loudness = pyloudnorm.Meter(sample_rate).integrated_loudness(samples)
        if np.isfinite(loudness):
            gain = 10 ** ((target_lufs - loudness) / 20)
    return (samples * min(gain, 10 ** (peak_dbfs / 20) / peak)).astype(np.float32)


def write_wav(path: str | Path, wav: ArrayLike, sample_rate: int = 16000, target_lufs: float = -14.0) -> None:
    """Writes a mono 16-bit wav, loudness-normalised by `normalise_loudness`."""
    samples = normalise_loudness(wav, sample_rate, target_lufs)
    soundfile.write(path, samples, sample_rate, format="WAV", subtype="PCM_16")


def write_mp4(
    path: str | Path,
    motion_px: ArrayLike,
    rate_hz: float,
    wav: ArrayLike,
    sample_rate: int,
    fps: int = 25,
    size_px: int = 480,
) -> None:
    """Writes a video of the skeleton with its sound for browsers (H.264, yuv420p, AAC, index in front).

    motion_px: (T, 14, 2), frame i at (i + 0.5) / rate_hz seconds, the mel grid's convention; NaN where
    missing. wav: (n,) at sample_rate Hz, loudness-normalised on the way. Both start at 0; the video lasts as
    long as the longer one, a shorter motion holds its last pose. A picture shows the pose of its middle, so
    the eye is at most half a picture early or late. Raises DataError if the motion is not (T, 14, 2) with T
    >= 1 or size_px is odd.
    """
    motion = np.asarray(motion_px, dtype=np.float64)
    if motion.ndim != 3 or motion.shape[1:] != (14, 2) or len(motion) == 0 or size_px % 2:
        raise DataError(
            f"Motion of shape {motion.shape} cannot be filmed at {size_px} px: expected (T, 14, 2), T >= 1, and an "
            "even size."
        )
    sound = normalise_loudness(wav, sample_rate)
    duration_s = max(len(motion) / rate_hz, len(sound) / sample_rate)
    n_pictures = max(1, int(np.ceil(duration_s * fps - 1e-6)))
    poses = _poses_at((np.arange(n_pictures) + 0.5) / fps, motion, rate_hz)
    painter = Painter(motion, size_px)
    # The codec names travel with the PyAV wheel; `faststart` moves the index to the front once all is
    # written.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = _video_stream(container, fps, size_px)
        audio = container.add_stream("aac", rate=_SOUND_HZ, bit_rate=128_000)
        audio.layout = "mono"
        for i, pose in enumerate(poses):
            picture = av.VideoFrame.from_ndarray(painter.paint(pose), format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, fps)
            container.mux(video.encode(picture))
            begin, end = (round(k * sample_rate / fps) for k in (i, i + 1))
            if begin < len(sound):
                container.mux(audio.encode(_audio_frame(sound[begin:end], sample_rate, begin)))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _poses_at(
    times_s: NDArray[np.float64], motion: NDArray[np.float64], rate_hz: float
) -> NDArray[np.float64]:
    """Poses (N, 14, 2) at the given times, linear; a joint missing in either neighbour is missing."""
    place = np.clip(times_s * rate_hz - 0.5, 0, len(motion) - 1)
    before = np.floor(place).astype(int)
    after = np.minimum(before + 1, len(motion) - 1)
    weight = (place - before)[:, None, None]
    return motion[before] * (1 - weight) + motion[after] * weight


def _video_stream(container: av.container.OutputContainer, fps: int, size_px: int) -> av.VideoStream:
    codec = next(name for name in _VIDEO_CODECS if name in av.codecs_available)
    options = {"preset": "veryfast", "crf": "20"} if codec == "libx264" else {}
    stream = container.add_stream(codec, rate=fps, options=options)
    stream.width = stream.height = size_px
    stream.pix_fmt = "yuv420p"
    if codec != "libx264":
        stream.bit_rate = 1_500_000
    return stream


def _audio_frame(samples: NDArray[np.float32], sample_rate: int, begin: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, begin, Fraction(1, sample_rate)
    return frame
