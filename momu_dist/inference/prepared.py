"""Requests made ready: checked whole before anything is computed, their input on the mel grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from momu_dist.core.audio.mel import HOP, MEL_RATE_HZ, SAMPLE_RATE, log_mel
from momu_dist.core.catalog import SAMPLERS
from momu_dist.core.motion.bones import limb_lengths
from momu_dist.core.motion.cleaning import grid_frames, resample_to_grid
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.motion.skeleton import N_JOINTS
from momu_dist.core.random import Seed
from momu_dist.errors import CheckpointError, ConfigError, DataError
from momu_dist.inference.likeness import noise_seed
from momu_dist.inference.models import Models
from momu_dist.inference.request import DIRECTIONS_OF, MAX_SECONDS, MIN_SECONDS, Request

# Far longer than the clips the networks are trained on: they take it, but nothing says how well.
LONG_SECONDS = 60.0
# Beyond any camera and any sound; far larger values overflow in the networks.
MAX_COORDINATE_PX, MAX_AMPLITUDE = 1e6, 1e3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A request with its input on the mel grid: audio (256 T,) and mel (80, T), or motion (T, 14, 2) px; T is even."""

    request: Request
    n_frames: int
    n_steps: int
    """Sampling steps, as its walk will count them."""
    audio: np.ndarray | None = None
    mel: np.ndarray | None = None
    motion_px: np.ndarray | None = None

    @property
    def n_latents(self) -> int:
        return self.n_frames // 2

    @property
    def seed(self) -> Seed:
        return noise_seed(self.request.seed, self.request.like)


def prepare(request: Request, models: Models) -> Prepared:
    """Return `request` ready to be sampled by `models`.

    Raises DataError for an unusable input, ConfigError for settings out of range, CheckpointError where the
    direction's network was not loaded.
    """
    prepared = _checked(request, models)
    for direction in DIRECTIONS_OF[request.task]:
        longest = models.denoising[direction].max_latents
        if longest is not None and prepared.n_latents > longest:
            raise ConfigError(
                f"{prepared.n_frames / MEL_RATE_HZ:.3f} s are asked of dit_{direction}, whose learned positions end at "
                f"{2 * longest / MEL_RATE_HZ:.3f} s; give seconds up to that, or a model with positions=aligned."
            )
    return prepared


def _checked(request: Request, models: Models) -> Prepared:
    if request.task not in DIRECTIONS_OF:
        raise ConfigError(f"task is {request.task!r}, expected one of {', '.join(DIRECTIONS_OF)}.")
    for direction in DIRECTIONS_OF[request.task]:
        if direction not in models.denoising:
            raise CheckpointError(
                f"task {request.task} needs a trained dit_{direction}, the given checkpoints hold "
                f"{', '.join(f'dit_{d}' for d in models.denoising)}; name its run folder too."
            )
    noise_seed(request.seed, request.like)  # refuses what cannot be mixed
    # The grid holds whole pairs of frames: of 1 s it keeps 0.992 s, which a recipe then says.
    shortest_s = grid_frames(MIN_SECONDS) / MEL_RATE_HZ
    if request.seconds is not None and not shortest_s <= request.seconds <= MAX_SECONDS:
        raise ConfigError(f"seconds is {request.seconds}, expected {MIN_SECONDS:g} to {MAX_SECONDS:g}.")
    check_sampling(request.steps, request.guidance, request.sampler)
    if request.task == "joint" and request.sampler == "ddpm":
        raise ConfigError(
            "sampler is 'ddpm' with task joint, whose algorithm takes deterministic steps; give ddim or dpm++."
        )
    n_steps = _n_steps(request, models)
    if request.task == "a2m":
        return _from_audio(request, n_steps)
    if request.task == "m2a":
        return _from_motion(request, n_steps, models.motion_stats)
    if request.seconds is None:
        raise ConfigError("task joint has no input to take its length from; give seconds.")
    return Prepared(request, grid_frames(request.seconds), n_steps)


def check_sampling(steps: int, guidance: float, sampler: str) -> None:
    """ConfigError for settings out of their range, whatever is to be sampled."""
    if not 1 <= steps <= 1000:
        raise ConfigError(f"steps is {steps}, expected 1 to 1000.")
    if not math.isfinite(guidance):
        raise ConfigError(f"guidance is {guidance}, expected a finite number such as 3.")
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler is {sampler!r}, expected one of {', '.join(SAMPLERS)}.")


def _n_steps(request: Request, models: Models) -> int:
    """Asked of the sampler itself, which refuses here what it would refuse at its first step."""
    schedule = models.denoising[DIRECTIONS_OF[request.task][0]].schedule
    steps = SAMPLERS[request.sampler](schedule, torch.zeros(0, 1, 1), n_steps=request.steps, seeds=[])
    return next(steps).n_steps


def _from_audio(request: Request, n_steps: int) -> Prepared:
    if request.audio is None:
        raise DataError("task a2m needs music, none was given; give an audio file or a video with sound.")
    audio = np.asarray(request.audio, dtype=np.float32)
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise DataError(
            f"the music has shape {audio.shape} or holds values that are not finite, expected (n,) samples at "
            f"{SAMPLE_RATE} Hz; read it with read_audio."
        )
    if np.abs(audio).max(initial=0.0) > MAX_AMPLITUDE:
        raise DataError(
            f"the music reaches {np.abs(audio).max():.3g}, expected samples in [-1, 1]; scale it to full scale 1."
        )
    if request.seconds is not None:
        audio = audio[: round(request.seconds * SAMPLE_RATE)]
    frames = grid_frames(len(audio) / SAMPLE_RATE)
    _check_length(frames, "music")
    audio = audio[: frames * HOP]
    mel = log_mel(torch.from_numpy(audio)).numpy()[:, :frames]
    return Prepared(request, frames, n_steps, audio=audio, mel=mel)


def _from_motion(request: Request, n_steps: int, stats: MotionStats) -> Prepared:
    if request.motion_px is None:
        raise DataError("task m2a needs motion, none was given; give a motion file.")
    motion = np.asarray(request.motion_px, dtype=np.float64)
    if motion.ndim != 3 or motion.shape[1:] != (N_JOINTS, 2) or not np.isfinite(motion).all():
        raise DataError(
            f"the motion has shape {motion.shape} or holds values that are not finite, expected (T, {N_JOINTS}, 2) "
            "pixels without gaps; read it with read_motion and fill_gaps."
        )
    if np.abs(motion).max(initial=0.0) > MAX_COORDINATE_PX:
        raise DataError(
            f"the motion reaches {np.abs(motion).max():.3g} px, expected at most {MAX_COORDINATE_PX:g}; "
            "give it in pixels of the picture."
        )
    if len(motion) and not limb_lengths(motion).mean(0).sum() > 1e-6:
        raise DataError(
            "the motion's limbs have no length, expected a person; all its joints lie in one point, so check the file."
        )
    if not (math.isfinite(request.fps) and request.fps > 0):
        raise DataError(f"the motion's rate is {request.fps} fps, expected a positive number; give its fps.")
    seconds = len(motion) / request.fps
    if request.seconds is not None:
        seconds = min(seconds, request.seconds)
    frames = grid_frames(seconds)
    _check_length(frames, "motion")
    on_grid = request.fps == MEL_RATE_HZ
    motion = motion[:frames] if on_grid else resample_to_grid(motion, request.fps, frames)
    return Prepared(request, frames, n_steps, motion_px=_fit_size(motion, stats).astype(np.float32))


def _check_length(frames: int, what: str) -> None:
    seconds = frames / MEL_RATE_HZ
    # In frames, since the grid holds whole pairs: of 1 s it keeps 0.992 s.
    if not grid_frames(MIN_SECONDS) <= frames <= grid_frames(MAX_SECONDS):
        raise DataError(
            f"the {what} is {seconds:.2f} s long, expected {MIN_SECONDS:g} to {MAX_SECONDS:g} s; "
            "give another, or cut it with seconds."
        )


def warn_if_long(prepared: Sequence[Prepared]) -> None:
    longest_s = max((p.n_frames for p in prepared), default=0) / MEL_RATE_HZ
    if longest_s > LONG_SECONDS:
        _log.warning(
            "%.0f s are far longer than what the networks are trained on, and the result may be poor; "
            "cut it with seconds (--seconds).", longest_s,
        )  # fmt: skip


def warn_if_short(prepared: Sequence[Prepared]) -> None:
    """Say once that an input ended before the length that was asked for."""
    for p in prepared:
        if p.request.seconds is not None and p.n_frames < grid_frames(p.request.seconds):
            _log.warning(
                "the input ends before the %g s that were asked for (--seconds): the sample is %.3f s long, as it is.",
                p.request.seconds, p.n_frames / MEL_RATE_HZ,
            )  # fmt: skip
            return


def _fit_size(motion_px: np.ndarray, stats: MotionStats) -> np.ndarray:
    """Bring motion of another camera to the training set's size and place; one that fits already is left as it is."""
    ratio = float(np.sum(stats.bone_lengths_px) / max(limb_lengths(motion_px).mean(0).sum(), 1e-6))
    centre = motion_px.mean((0, 1))
    if 0.5 < ratio < 2.0 and np.abs(centre - stats.centre).max() < 4.0 * stats.scale:
        return motion_px
    return (motion_px - centre) * ratio + np.asarray(stats.centre)
