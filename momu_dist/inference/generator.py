"""From a request to motion and music: the one class that the command line, evaluation and the service call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from momu_dist.core.audio.mel import SAMPLE_RATE
from momu_dist.core.audio.onsets import onset_times
from momu_dist.core.audio.vocoder import GriffinLim, Vocoder
from momu_dist.core.catalog import SAMPLERS
from momu_dist.core.diffusion.batching import Walkers
from momu_dist.core.diffusion.guidance import Walk, classifier_free, cross_guidance
from momu_dist.core.diffusion.samplers import OnStep, Steps
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.core.motion.bones import correct_bones
from momu_dist.core.motion.kinematics import kinematic_beats
from momu_dist.core.random import randn_each
from momu_dist.core.tasks.base import motion_channels, motion_from_channels
from momu_dist.errors import DataError
from momu_dist.inference.likeness import leading_seed
from momu_dist.inference.models import Models, load_models
from momu_dist.inference.prepared import Prepared, prepare, warn_if_long, warn_if_short
from momu_dist.inference.request import Request, Sample
from momu_dist.inference.vocoders import hint_griffin_lim, load_vocoder


class Generator:
    """Makes samples from trained networks; holds no state between calls.

    `generate` does all at once. Who lets requests come and go takes its parts: `prepare`, `walk`, and `finish`, with the
    walks in `Walkers(generator.networks)`.
    """

    def __init__(self, models: Models, vocoder: Vocoder | None = None, max_batch: int = 16) -> None:
        """`max_batch` requests share network calls at a time."""
        self.models = models
        self.vocoder = vocoder or GriffinLim()
        self.max_batch = max_batch
        self.networks = {direction: net.eps for direction, net in models.denoising.items()}

    @classmethod
    def load(
        cls, *checkpoints: str | Path, device: str | None = None, vocoder: Vocoder | str | Path | None = None
    ) -> Generator:
        """Read trained models: run folders, exports, or a folder that holds the runs of both directions, as `load_models` does.

        `vocoder` is one, or the folder of one that `load_vocoder` reads; without, it is Griffin-Lim.
        """
        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if isinstance(vocoder, str | Path):
            vocoder = load_vocoder(vocoder, name)
        return cls(load_models(checkpoints, torch.device(name)), vocoder)

    def generate(self, requests: Request | Sequence[Request], on_step: OnStep | None = None) -> list[Sample]:
        """Return one sample a request, in order. Requests share network calls, whatever their tasks and lengths.

        `on_step` hears of the sampling steps of all requests together. Raises as `prepare`, before anything is sampled.
        """
        requests = [requests] if isinstance(requests, Request) else list(requests)
        prepared = [self.prepare(request) for request in requests]
        warn_if_long(prepared)
        warn_if_short(prepared)
        # Neighbours in length walk together, so that little is padded.
        waiting = sorted(range(len(prepared)), key=lambda i: prepared[i].n_latents)
        total = sum(p.n_steps for p in prepared)
        walkers: Walkers[int] = Walkers(self.networks)
        samples: dict[int, Sample] = {}
        told = 0
        while waiting or len(walkers):
            while waiting and len(walkers) < self.max_batch:
                i = waiting.pop()
                walkers.join(i, self.walk(prepared[i]))
            for i, latents in walkers.step().items():
                samples[i] = self.finish(prepared[i], latents)
            done = sum(prepared[i].n_steps for i in samples) + walkers.steps_done()
            if on_step and done > told:
                on_step(done, total)
            told = done
        return [samples[i] for i in range(len(requests))]

    def prepare(self, request: Request) -> Prepared:
        """Return `request`, checked and with its input on the mel grid; see `prepared.prepare` for what it raises."""
        prepared = prepare(request, self.models)
        if request.task == "joint":
            next(self._joint(prepared))  # what cross guidance refuses, it refuses at its first step
        return prepared

    @torch.no_grad()
    def walk(self, prepared: Prepared) -> Walk:
        """The walk of one request from noise to its latents, (1, C, L) each; its input is encoded here."""
        request = prepared.request
        if request.task == "joint":
            return self._joint(prepared)
        if request.task == "a2m":
            condition = self._encode(self.models.music_vae, "music", _known(prepared.mel))
        else:
            channels = motion_channels(_known(prepared.motion_px), self.models.motion_stats)
            condition = self._encode(self.models.motion_vae, "motion", channels)
        return classifier_free(self._steps(request.task, prepared), request.task, condition, request.guidance)

    @torch.no_grad()
    def finish(self, prepared: Prepared, latents: Sequence[Tensor]) -> Sample:
        """The sample that the walk's `latents` stand for. Raises DataError where they are not finite."""
        request, motion, mel = prepared.request, prepared.motion_px, prepared.mel
        audio, vocoder = prepared.audio, None
        if request.task != "m2a":
            motion = self._decode_motion(latents[-1], request)
        if request.task != "a2m":
            mel = self._decode(self.models.music_vae, "music", latents[0], request)
            audio = self.vocoder(torch.from_numpy(mel)[None], [leading_seed(prepared.seed)])[0].numpy()
            vocoder = self.vocoder.name
            if isinstance(self.vocoder, GriffinLim):
                hint_griffin_lim()
        motion, mel, audio = _known(motion), _known(mel), _known(audio)
        onsets = onset_times(audio, SAMPLE_RATE)
        return Sample(request, motion, mel, audio, onsets, kinematic_beats(motion), vocoder)

    def _joint(self, prepared: Prepared) -> Walk:
        music, motion = (self._steps(direction, prepared) for direction in ("m2a", "a2m"))
        schedule, request = self.models.denoising["m2a"].schedule, prepared.request
        return cross_guidance(music, motion, schedule, request.gamma, request.guidance)

    def _steps(self, direction: str, prepared: Prepared) -> Steps:
        net, request = self.models.denoising[direction], prepared.request
        noise = randn_each([prepared.seed], (prepared.n_latents, net.channels), f"start-{direction}")
        z_T = noise.transpose(1, 2).to(self.models.device)
        return SAMPLERS[request.sampler](net.schedule, z_T, n_steps=request.steps, seeds=[prepared.seed])

    def _encode(self, vae: Autoencoder, modality: str, array: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(array))[None].to(self.models.device)
        mean, _ = vae.encode(x)
        return self.models.scales[modality].normalise(mean)

    def _decode(self, vae: Autoencoder, modality: str, z: Tensor, request: Request) -> np.ndarray:
        if not torch.isfinite(z).all():
            raise DataError(
                f"the sampled {modality} is not finite with guidance {request.guidance:g}, expected numbers; "
                "give a smaller guidance such as 3, and if that fails too, other weights."
            )
        decoded: np.ndarray = vae.decode(self.models.scales[modality].denormalise(z))[0].float().cpu().numpy()
        return decoded

    def _decode_motion(self, z: Tensor, request: Request) -> np.ndarray:
        stats = self.models.motion_stats
        motion = motion_from_channels(self._decode(self.models.motion_vae, "motion", z, request), stats)
        return correct_bones(motion, stats.bone_lengths_px).astype(np.float32)


def _known(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array
