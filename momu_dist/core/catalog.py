"""The names that a YAML or a request may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from momu_dist.core.diffusion.samplers import Sampler, ddim, ddpm, dpm_solver_pp
from momu_dist.core.models.autoencoder import AutoencoderConfig
from momu_dist.core.models.bigvgan import BigVGANConfig
from momu_dist.core.models.dit import DiTConfig
from momu_dist.core.tasks.base import Task, TaskInputs
from momu_dist.core.tasks.dit import DitLoss, DitMotionToMusic, DitMusicToMotion
from momu_dist.core.tasks.motion_vae import MotionVaeLoss, MotionVaeTask
from momu_dist.core.tasks.music_vae import MusicVaeLoss, MusicVaeTask
from momu_dist.core.tasks.vocoder import VocoderLoss, VocoderTask


@dataclass(frozen=True)
class Stage:
    """One training stage: its task, the dataclasses of its `model` and `loss` sections, and what it reads."""

    task: Callable[[Any, Any, TaskInputs], Task]
    model_config: type
    loss_config: type
    reads: Literal["clips", "latents"]
    in_channels: int  # of what the network is trained on: mel bands, motion channels, latent channels
    judged_by: str  # the validation value whose lowest makes an export the best of its run
    needs: tuple[str, ...] = ()
    motion: bool = True  # whether the data must hold motion; music alone is enough without


STAGES: dict[str, Stage] = {
    "music_vae": Stage(MusicVaeTask, AutoencoderConfig, MusicVaeLoss, "clips", 80, "rec", motion=False),
    "motion_vae": Stage(
        MotionVaeTask, AutoencoderConfig, MotionVaeLoss, "clips", 28, "rec", needs=("music_vae",)
    ),
    "dit_m2a": Stage(
        DitMotionToMusic, DiTConfig, DitLoss, "latents", 20, "true", needs=("music_vae", "motion_vae")
    ),
    "dit_a2m": Stage(
        DitMusicToMotion, DiTConfig, DitLoss, "latents", 20, "true", needs=("music_vae", "motion_vae")
    ),
    "vocoder": Stage(VocoderTask, BigVGANConfig, VocoderLoss, "clips", 80, "mel_distance", motion=False),
}

SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpm++": dpm_solver_pp,
}
