"""Small tasks of every stage with rows of unlike length, all from numbers drawn here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from momu_dist.core.catalog import STAGES
from momu_dist.core.latents import LatentScale
from momu_dist.core.losses.contrast import ContrastConfig
from momu_dist.core.models.autoencoder import Autoencoder, AutoencoderConfig
from momu_dist.core.models.bigvgan import BigVGANConfig
from momu_dist.core.models.dit import DiTConfig
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.tasks.base import Row, Task, TaskInputs
from momu_dist.core.tasks.dit import DitLoss
from momu_dist.core.tasks.motion_vae import MotionVaeLoss
from momu_dist.core.tasks.music_vae import MusicVaeLoss
from momu_dist.core.tasks.vocoder import VocoderLoss

Z = 4
STATS = MotionStats((320.0, 240.0), 80.0, (50.0,) * 13)
SCALES = {"music": LatentScale((0.1,) * Z, (1.5,) * Z), "motion": LatentScale((-0.2,) * Z, (0.7,) * Z)}


def vae_config(channels: int) -> AutoencoderConfig:
    return AutoencoderConfig(channels, Z, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_layers=())


MODELS = {
    "music_vae": vae_config(80),
    "motion_vae": vae_config(28),
    "dit_m2a": DiTConfig(Z, Z, 32, 32, 2, 1, 64, 3, 1, 3, 1),
    "dit_a2m": DiTConfig(Z, Z, 32, 32, 2, 1, 64, 3, 1, 3, 1, positions="aligned", prediction="v"),
    "vocoder": BigVGANConfig(80, (16, 16), (32, 32), 16, "2", (3,), ((1,),)),
}
LOSSES = {
    "music_vae": MusicVaeLoss(kl_weight=0.1, disc_ndf=4, disc_norm="group"),
    "motion_vae": MotionVaeLoss(kl_weight=0.1, contrast=ContrastConfig(clip_latents=(4, 8))),
    "dit_m2a": DitLoss(condition_drop=0.5),
    "dit_a2m": DitLoss(condition_drop=0.5),
    "vocoder": VocoderLoss(mel_weight=0.1, gan_start=0.5, disc_ch=2),
}


@dataclass(frozen=True)
class Stage:
    """A task, its networks, and rows for it (lengths in frames at 62.5 Hz)."""

    task: Task
    networks: dict[str, nn.Module]

    def rows(self, lengths: tuple[int, ...]) -> list[Row]:
        return [clip(name, length) for name, length in enumerate(lengths)]


def clip(number: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng([number, length])
    n = length // 2
    return {
        "clip_id": f"clip{number}",
        "mel": rng.normal(-2.0, 1.0, (80, length)).astype(np.float32),
        "waveform": rng.normal(0.0, 0.2, 256 * length).astype(np.float32),
        "motion": rng.normal(250.0, 60.0, (length, 14, 2)).astype(np.float32),
        "amplitude": rng.uniform(0.0, 1.0, length).astype(np.float32),
        "music_mean": rng.normal(size=(n, Z)).astype(np.float32),
        "music_logvar": rng.normal(-3.0, 0.3, (n, Z)).astype(np.float32),
        "motion_mean": rng.normal(size=(n, Z)).astype(np.float32),
        "motion_logvar": rng.normal(-3.0, 0.3, (n, Z)).astype(np.float32),
    }


@pytest.fixture
def make_stage() -> Callable[..., Stage]:
    """(stage, loss or None, shortest and longest crop in frames) -> Stage with weights that are not zero."""

    def make(name: str, loss: Any = None, length_frames: tuple[int, int] = (48, 96)) -> Stage:
        torch.manual_seed(0)
        music_vae = Autoencoder(vae_config(80)) if name == "motion_vae" else None
        inputs = TaskInputs(length_frames, STATS, music_vae, SCALES)
        task = STAGES[name].task(MODELS[name], loss or LOSSES[name], inputs)
        networks = task.networks()
        for network in networks.values():
            for parameter in network.parameters():  # some layers start at zero, which would hide mistakes
                nn.init.normal_(parameter, 0.0, 0.05) if parameter.ndim > 1 else None
        return Stage(task, networks)

    return make
