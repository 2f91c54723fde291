"""From a request to motion and music: the one class that the command line, evaluation and the service call."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from momu_dist.core.audio.mel import HOP, MEL_RATE_HZ, SAMPLE_RATE, log_mel
from momu_dist.core.audio.onsets import onset_times
from momu_dist.core.audio.vocoder import GriffinLim, Vocoder
from momu_dist.core.catalog import SAMPLERS
from momu_dist.core.diffusion.guidance import classifier_free, cross_guidance
from momu_dist.core.diffusion.samplers import OnStep
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.core.motion.bones import correct_bones, limb_lengths
from momu_dist.core.motion.cleaning import grid_frames, resample_to_grid
from momu_dist.core.motion.kinematics import kinematic_beats
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.motion.skeleton import N_JOINTS
from momu_dist.core.random import Seed, randn_each
from momu_dist.core.tasks.base import motion_channels, motion_from_channels
from momu_dist.errors import CheckpointError, ConfigError, DataError
from momu_dist.inference.likeness import Like, leading_seed, noise_seed
from momu_dist.inference.models import Models, load_models
from momu_dist.inference.vocoders import hint_griffin_lim, load_vocoder

Task = Literal["a2m", "m2a", "joint"]
MIN_SECONDS, MAX_SECONDS = 1.0, 600.0
# Far longer than the clips the networks are trained on: they take it, but nothing says how well.
LONG_SECONDS = 60.0
# Beyond any camera and any sound; far larger values overflow in the networks.
MAX_COORDINATE_PX, MAX_AMPLITUDE = 1e6, 1e3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One sample to make. `a2m` needs `audio` (n,) at 16 kHz, `m2a` needs `motion_px` (T, 14, 2) at `fps`, `joint` `seconds`.

    `seconds` cuts a given input. The same request gives the same sample, alone or in a batch.

    Motion at exactly 62.5 fps is on the mel grid (frame i at (i + 0.5) / 62.5 s, as prepared clips and our own files are;
    no camera runs at that rate) and is kept to the bit; at any other rate frame i is at i / fps s and is resampled.
    `sampler` is a name of `core.catalog.SAMPLERS`; `ddpm` takes all steps of the schedule, whatever `steps` says.
    `joint` is always sampled by Algorithm 2 in DDIM steps. `like` mixes the noise of a liked sample into that of `seed`.
    """

    task: Task
    seed: int = 0
    seconds: float | None = None
    steps: int = 50
    guidance: float = 3.0
    gamma: float = 0.5
    sampler: str = "ddim"
    audio: np.ndarray | None = None
    motion_px: np.ndarray | None = None
    fps: float = MEL_RATE_HZ
    like: Like | None = None


@dataclass(frozen=True)
class Sample:
    """Motion (T, 14, 2) px at 62.5 Hz with music: mel (80, T) log10, audio (256 T,) at 16 kHz, and their beats in s."""

    request: Request
    motion_px: np.ndarray
    mel: np.ndarray
    audio: np.ndarray
    onsets_s: np.ndarray
    beats_s: np.ndarray
    vocoder: str | None

    def recipe(self) -> dict[str, Any]:
        """Return what is needed to make the sample again, besides its input and the weights."""
        request = self.request
        names = ["task", "seed", "steps", "guidance", "sampler"]
        if request.task == "joint":
            names.append("gamma")
        if request.motion_px is not None:
            names.append("fps")
        made = {name: getattr(request, name) for name in names}
        if request.like is not None:
            made["like"] = asdict(request.like)
        return {**made, "seconds": len(self.motion_px) / MEL_RATE_HZ, "vocoder": self.vocoder}


class Generator:
    """Makes samples from trained networks; holds no state between calls."""

    def __init__(self, models: Models, vocoder: Vocoder | None = None, max_batch: int = 16) -> None:
        self.models = models
        self.vocoder = vocoder or GriffinLim()
        self.max_batch = max_batch

    @classmethod
    def load(
        cls, *checkpoints: str | Path, device: str | None = None, vocoder: Vocoder | str | Path | None = None
    ) -> Generator:
        """Read trained models: run folders, exports, or a folder that holds the runs of both directions.

        `vocoder` is one, or the folder of one that `load_vocoder` reads; without, it is Griffin-Lim.
        """
        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if isinstance(vocoder, str | Path):
            vocoder = load_vocoder(vocoder, name)
        return cls(load_models(checkpoints, torch.device(name)), vocoder)

    def generate(self, requests: Request | Sequence[Request], on_step: OnStep | None = None) -> list[Sample]:
        """Return one sample a request, in order. Requests that can share network calls do, whatever their lengths.

        Raises DataError for an unusable input, ConfigError for settings out of range, CheckpointError where the
        direction's network was not loaded.
        """
        requests = [requests] if isinstance(requests, Request) else list(requests)
        prepared = [self._prepare(request) for request in requests]
        _warn_if_long(prepared)
        _warn_if_short(prepared)
        samples: list[Sample | None] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            gamma = request.gamma if request.task == "joint" else None
            key = (request.task, request.sampler, request.steps, request.guidance, gamma)
            groups.setdefault(key, []).append(i)
        for members in groups.values():
            # Neighbours in length share a batch, so that little is padded.
            members.sort(key=lambda i: prepared[i].n_latents)
            for start in range(0, len(members), self.max_batch):
                part = members[start : start + self.max_batch]
                for i, sample in zip(part, self._batch([prepared[i] for i in part], on_step), strict=True):
                    samples[i] = sample
        return [sample for sample in samples if sample is not None]

    def _prepare(self, request: Request) -> _Prepared:
        needed = ("m2a", "a2m") if request.task == "joint" else (request.task,)
        for direction in needed:
            if direction not in self.models.denoising:
                raise CheckpointError(
                    f"task {request.task} needs a trained dit_{direction}, the given checkpoints hold "
                    f"{', '.join(f'dit_{d}' for d in self.models.denoising)}; name its run folder too."
                )
        noise_seed(request.seed, request.like)  # refuses what cannot be mixed
        # The grid holds whole pairs of frames: of 1 s it keeps 0.992 s, which a recipe then says.
        shortest_s = grid_frames(MIN_SECONDS) / MEL_RATE_HZ
        if request.seconds is not None and not shortest_s <= request.seconds <= MAX_SECONDS:
            raise ConfigError(f"seconds is {request.seconds}, expected {MIN_SECONDS:g} to {MAX_SECONDS:g}.")
        if not 1 <= request.steps <= 1000:
            raise ConfigError(f"steps is {request.steps}, expected 1 to 1000.")
        if not math.isfinite(request.guidance):
            raise ConfigError(f"guidance is {request.guidance}, expected a finite number such as 3.")
        if request.sampler not in SAMPLERS:
            raise ConfigError(f"sampler is {request.sampler!r}, expected one of {', '.join(SAMPLERS)}.")
        if request.task == "joint" and request.sampler != "ddim":
            raise ConfigError(
                f"sampler is {request.sampler!r} with task joint, whose algorithm takes DDIM steps; leave sampler at ddim."
            )
        if request.task == "a2m":
            return self._from_audio(request)
        if request.task == "m2a":
            return self._from_motion(request)
        if request.seconds is None:
            raise ConfigError("task joint has no input to take its length from; give seconds.")
        return _Prepared(request, grid_frames(request.seconds))

    def _from_audio(self, request: Request) -> _Prepared:
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
        return _Prepared(
            request, frames, audio=audio, mel=log_mel(torch.from_numpy(audio)).numpy()[:, :frames]
        )

    def _from_motion(self, request: Request) -> _Prepared:
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
            raise DataError(
                f"the motion's rate is {request.fps} fps, expected a positive number; give its fps."
            )
        seconds = len(motion) / request.fps
        if request.seconds is not None:
            seconds = min(seconds, request.seconds)
        frames = grid_frames(seconds)
        _check_length(frames, "motion")
        on_grid = request.fps == MEL_RATE_HZ
        motion = motion[:frames] if on_grid else resample_to_grid(motion, request.fps, frames)
        return _Prepared(
            request, frames, motion_px=_fit_size(motion, self.models.motion_stats).astype(np.float32)
        )

    @torch.no_grad()
    def _batch(self, prepared: list[_Prepared], on_step: OnStep | None) -> list[Sample]:
        task = prepared[0].request.task
        if task == "joint":
            music, motion = self._joint(prepared, on_step)
            return self._finish(
                prepared, self._decode_mel(music, prepared), self._decode_motion(motion, prepared)
            )
        if task == "a2m":
            condition = self._encode(self.models.music_vae, "music", [p.mel for p in prepared])
            motion = self._guided("a2m", prepared, condition, on_step)
            return self._finish(prepared, None, self._decode_motion(motion, prepared))
        channels = [motion_channels(_known(p.motion_px), self.models.motion_stats) for p in prepared]
        condition = self._encode(self.models.motion_vae, "motion", channels)
        music = self._guided("m2a", prepared, condition, on_step)
        return self._finish(prepared, self._decode_mel(music, prepared), None)

    def _guided(
        self, direction: str, prepared: list[_Prepared], condition: Tensor, on_step: OnStep | None
    ) -> Tensor:
        net, request = self.models.denoising[direction], prepared[0].request
        lengths = self._lengths(prepared)
        denoiser = classifier_free(net.eps, condition, request.guidance, lengths)
        return SAMPLERS[request.sampler](
            denoiser,
            net.schedule,
            self._start(prepared, net.channels, direction),
            n_steps=request.steps,
            seeds=[p.seed for p in prepared],
            on_step=on_step,
        )

    def _joint(self, prepared: list[_Prepared], on_step: OnStep | None) -> tuple[Tensor, Tensor]:
        music, motion = self.models.denoising["m2a"], self.models.denoising["a2m"]
        request = prepared[0].request
        return cross_guidance(
            music.eps,
            motion.eps,
            music.schedule,
            self._start(prepared, music.channels, "m2a"),
            self._start(prepared, motion.channels, "a2m"),
            request.steps,
            request.gamma,
            request.guidance,
            self._lengths(prepared),
            on_step,
        )

    def _start(self, prepared: list[_Prepared], channels: int, purpose: str) -> Tensor:
        longest = max(p.n_latents for p in prepared)
        noise = randn_each([p.seed for p in prepared], (longest, channels), f"start-{purpose}")
        return noise.transpose(1, 2).to(self.models.device)

    def _lengths(self, prepared: list[_Prepared]) -> Tensor:
        return torch.tensor([p.n_latents for p in prepared], device=self.models.device)

    def _encode(self, vae: Autoencoder, modality: str, arrays: Sequence[np.ndarray | None]) -> Tensor:
        means = []
        # One by one: encoding is cheap, and a sample's latents do not depend on its batch.
        for array in arrays:
            x = torch.from_numpy(np.ascontiguousarray(_known(array)))
            mean, _ = vae.encode(x[None].to(self.models.device))
            means.append(self.models.scales[modality].normalise(mean)[0])
        longest = max(mean.shape[-1] for mean in means)
        return torch.stack([torch.nn.functional.pad(mean, (0, longest - mean.shape[-1])) for mean in means])

    def _decode(
        self, vae: Autoencoder, modality: str, z: Tensor, prepared: list[_Prepared]
    ) -> list[np.ndarray]:
        for one, p in zip(z, prepared, strict=True):
            if not torch.isfinite(one[:, : p.n_latents]).all():
                raise DataError(
                    f"the sampled {modality} is not finite with guidance {p.request.guidance:g}, expected numbers; "
                    "give a smaller guidance such as 3, and if that fails too, other weights."
                )
        z = self.models.scales[modality].denormalise(z)
        decoded = [vae.decode(one[None, :, : p.n_latents])[0] for one, p in zip(z, prepared, strict=True)]
        return [one.float().cpu().numpy() for one in decoded]

    def _decode_mel(self, z: Tensor, prepared: list[_Prepared]) -> list[np.ndarray]:
        return self._decode(self.models.music_vae, "music", z, prepared)

    def _decode_motion(self, z: Tensor, prepared: list[_Prepared]) -> list[np.ndarray]:
        stats = self.models.motion_stats
        motions = [
            motion_from_channels(one, stats)
            for one in self._decode(self.models.motion_vae, "motion", z, prepared)
        ]
        return [correct_bones(motion, stats.bone_lengths_px).astype(np.float32) for motion in motions]

    def _finish(
        self, prepared: list[_Prepared], mels: list[np.ndarray] | None, motions: list[np.ndarray] | None
    ) -> list[Sample]:
        samples = []
        for i, p in enumerate(prepared):
            motion = _known(p.motion_px) if motions is None else motions[i]
            mel = _known(p.mel) if mels is None else mels[i]
            if mels is None:
                audio, vocoder = _known(p.audio), None
            else:
                audio = self.vocoder(torch.from_numpy(mel)[None], [leading_seed(p.seed)])[0].numpy()
                vocoder = self.vocoder.name
                if isinstance(self.vocoder, GriffinLim):
                    hint_griffin_lim()
            onsets = onset_times(audio, SAMPLE_RATE)
            samples.append(Sample(p.request, motion, mel, audio, onsets, kinematic_beats(motion), vocoder))
        return samples


@dataclass(frozen=True)
class _Prepared:
    request: Request
    n_frames: int
    audio: np.ndarray | None = None
    mel: np.ndarray | None = None
    motion_px: np.ndarray | None = None

    @property
    def n_latents(self) -> int:
        return self.n_frames // 2

    @property
    def seed(self) -> Seed:
        return noise_seed(self.request.seed, self.request.like)


def variations(request: Request, n: int) -> list[Request]:
    """Return `n` requests like `request` with seeds seed, seed + 1, ..."""
    return [replace(request, seed=request.seed + i) for i in range(n)]


def _known(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _check_length(frames: int, what: str) -> None:
    seconds = frames / MEL_RATE_HZ
    # In frames, since the grid holds whole pairs: of 1 s it keeps 0.992 s.
    if not grid_frames(MIN_SECONDS) <= frames <= grid_frames(MAX_SECONDS):
        raise DataError(
            f"the {what} is {seconds:.2f} s long, expected {MIN_SECONDS:g} to {MAX_SECONDS:g} s; "
            "give another, or cut it with seconds."
        )


def _warn_if_long(prepared: Sequence[_Prepared]) -> None:
    longest_s = max((p.n_frames for p in prepared), default=0) / MEL_RATE_HZ
    if longest_s > LONG_SECONDS:
        _log.warning(
            "%.0f s are far longer than what the networks are trained on, and the result may be poor; "
            "cut it with seconds (--seconds).", longest_s,
        )  # fmt: skip


def _warn_if_short(prepared: Sequence[_Prepared]) -> None:
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
