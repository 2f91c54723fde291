"""From a record to a row of parquet: checks, the mel grid, amplitude and onsets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from momu_dist.core.audio.mel import HOP, MEL_RATE_HZ, N_FFT, N_MELS, SAMPLE_RATE, log_mel
from momu_dist.core.audio.onsets import LORIS_ONSETS, ONSET_HOP, ONSET_SAMPLE_RATE, onset_times
from momu_dist.core.motion.cleaning import fill_gaps, grid_frames, resample_to_grid
from momu_dist.core.motion.kinematics import Angle, Window, normalised_amplitude
from momu_dist.core.motion.skeleton import N_JOINTS
from momu_dist.data.record import Record, Row
from momu_dist.errors import ClipError

# Raise it with any change here or in core that changes the numbers and is not one of `feature_parameters`.
FEATURE_VERSION = 1

MIN_CONF = 0.05
# Motion and audio of one clip may differ by a frame or two of a camera, not by more: then a rate is wrong or
# a file torn.
MAX_DIFFERENCE_S = 0.25
MIN_FRAMES = 16


@dataclass(frozen=True)
class AmplitudeOptions:
    """How the stored kinematic amplitude reads Eq. 1-2 where the paper is silent; see `core.motion.kinematics`."""

    bins: int = 10
    window: Window = "hard"
    angle: Angle = "atan2"


def feature_parameters(amplitude: AmplitudeOptions = AmplitudeOptions()) -> dict[str, Any]:
    """Everything the features depend on, as JSON types."""
    return {
        "version": FEATURE_VERSION,
        "mel": {"sample_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop": HOP, "bands": N_MELS, "log": "log10"},
        "grid_hz": MEL_RATE_HZ,
        "joints": N_JOINTS,
        "min_conf": MIN_CONF,
        "amplitude": {**asdict(amplitude), "over": "maximum"},
        "onsets": {**vars(LORIS_ONSETS), "sample_rate": ONSET_SAMPLE_RATE, "hop": ONSET_HOP},
    }


def feature_fingerprint(amplitude: AmplitudeOptions = AmplitudeOptions()) -> str:
    """16 hex digits that change whenever `feature_parameters` does."""
    parameters = json.dumps(feature_parameters(amplitude), sort_keys=True)
    return hashlib.sha256(parameters.encode()).hexdigest()[:16]


def check(record: Record) -> None:
    """Raises ClipError with the reason if the clip cannot be used; silence is fine.

    Reasons: shapes that do not fit, zero length, a rate that is not a positive number, audio that is not
    finite, motion and audio whose durations differ by more than 0.25 s (audio cut short, or a wrong rate).
    Missing joints: `extract`. Of a record without motion only the audio is checked.
    """
    motion, conf, audio, fps = record.motion_px, record.conf, record.audio, record.fps
    if motion is None or conf is None:
        _check_sound(audio)
        return
    fits = motion.ndim == 3 and motion.shape[1:] == (N_JOINTS, 2) and conf.shape == motion.shape[:2]
    if not fits or audio.ndim != 1:
        raise ClipError(
            f"shapes: motion {motion.shape}, conf {conf.shape}, audio {audio.shape}; "
            f"expected (T,{N_JOINTS},2), (T,{N_JOINTS}), (n,)"
        )
    if len(motion) == 0 or len(audio) == 0:
        raise ClipError(f"zero length: {len(motion)} motion frames, {len(audio)} audio samples")
    if not (np.isfinite(fps) and fps > 0):
        raise ClipError(f"motion rate is {fps} fps; expected a positive number")
    _check_sound(audio)
    motion_s, audio_s = len(motion) / fps, len(audio) / SAMPLE_RATE
    if abs(motion_s - audio_s) > MAX_DIFFERENCE_S:
        raise ClipError(
            f"durations disagree: motion {motion_s:.2f} s ({len(motion)} frames at {fps:g} fps), "
            f"audio {audio_s:.2f} s; "
            f"expected within {MAX_DIFFERENCE_S} s (audio cut short, or a wrong rate)"
        )


def _check_sound(audio: np.ndarray) -> None:
    if audio.ndim != 1 or len(audio) == 0:
        raise ClipError(f"zero length or shape: audio {audio.shape}; expected (n,), n >= 1")
    if not np.isfinite(audio).all():
        raise ClipError(f"audio is not finite in {int((~np.isfinite(audio)).sum())} of {len(audio)} samples")


def extract(record: Record, amplitude: AmplitudeOptions = AmplitudeOptions()) -> Row:
    """The row of a record, still without audio: all on the mel grid (62.5 Hz), an even number of frames T.

    motion (T,14,2) px after gap filling, band-limited; conf (T,14), 0 where the joint was filled in; mel
    (80,T) log10; amplitude (T,), Eq. 2 over its maximum; onsets_s as LORIS detects them. A record without motion
    has 0 frames of motion, conf and amplitude. Raises ClipError with the reason.
    """
    check(record)
    seconds = len(record.audio) / SAMPLE_RATE
    if record.motion_px is not None:
        seconds = min(len(record.motion_px) / record.fps, seconds)
    n_frames = grid_frames(seconds)
    if n_frames < MIN_FRAMES:
        raise ClipError(f"too short: {n_frames} frames at {MEL_RATE_HZ} Hz; expected at least {MIN_FRAMES}")
    motion, conf, strength = _of_motion(record, n_frames, amplitude)
    audio = record.audio[: n_frames * HOP]
    mel = log_mel(torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))).numpy()
    beats_s = np.zeros(0) if record.beats_s is None else record.beats_s
    return Row(
        clip_id=record.clip_id,
        group_id=record.group_id,
        motion=motion,
        conf=conf,
        mel=mel,
        amplitude=strength,
        onsets_s=onset_times(np.asarray(audio, dtype=np.float32), SAMPLE_RATE).astype(np.float32),
        beats_s=beats_s[beats_s < n_frames / MEL_RATE_HZ].astype(np.float32),
        audio=b"",
        audio_path="",
        fps=record.fps,
    )


def _of_motion(
    record: Record, n_frames: int, amplitude: AmplitudeOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Motion (T,14,2), conf (T,14) and amplitude (T,) on the grid, float32; T = 0 for a record without motion."""
    if record.motion_px is None or record.conf is None:
        none = np.zeros((0, N_JOINTS, 2), np.float32)
        return none, none[..., 0], none[:, 0, 0]
    conf = np.where(np.isfinite(record.conf), record.conf, 0.0)
    conf = np.where(np.isfinite(record.motion_px).all(axis=-1) & (conf >= MIN_CONF), conf, 0.0)
    filled = fill_gaps(record.motion_px, conf, MIN_CONF)
    motion = resample_to_grid(filled, record.fps, n_frames, MEL_RATE_HZ).astype(np.float32)
    strength = normalised_amplitude(motion, amplitude.bins, amplitude.window, amplitude.angle)
    return motion, _conf_on_grid(conf, record.fps, n_frames), strength.astype(np.float32)


def _conf_on_grid(conf: np.ndarray, fps: float, n_frames: int) -> np.ndarray:
    """Confidence (n_frames,14) of the motion frame nearest in time: a filled gap stays a 0, never a blend."""
    position = (np.arange(n_frames) + 0.5) / MEL_RATE_HZ * fps
    nearest = np.clip(np.rint(position).astype(int), 0, len(conf) - 1)
    return conf[nearest].astype(np.float32)
