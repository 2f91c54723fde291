"""A look at what a run has learned so far: one validation clip through the weights in training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from momu_dist.config.schema import RunConfig
from momu_dist.core.audio.mel import MEL_RATE_HZ, SAMPLE_RATE
from momu_dist.core.audio.onsets import onset_times
from momu_dist.core.audio.vocoder import GriffinLim
from momu_dist.core.latents import LatentScale
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.core.models.bigvgan import BigVGAN
from momu_dist.core.models.dit import LatentDiT
from momu_dist.core.motion.kinematics import kinematic_beats
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.tasks.base import motion_channels, motion_from_channels
from momu_dist.data.clips import PreparedClip, first_clips
from momu_dist.data.manifest import Manifest
from momu_dist.inference.export import Export
from momu_dist.inference.generator import Generator
from momu_dist.inference.media import write_wav
from momu_dist.inference.models import DIRECTIONS, Models, denoising_of, load_vae
from momu_dist.inference.outputs import output_folder, write_sample
from momu_dist.inference.request import Request, Sample
from momu_dist.inference.vocoders import hint_griffin_lim
from momu_dist.train.loop import Weights

PREVIEW_STEPS = 25


def write_preview(
    config: RunConfig, weights: Weights, facts: Mapping[str, Any], exports: Mapping[str, Export],
    folder: Path, device: torch.device,
) -> list[Path]:  # fmt: skip
    """Write the files of one sample made by `weights` and return their paths.

    VAE stages show a reconstruction (other modality as it was), diffusion stages a sample from the clip's partner. The
    vocoder, and the music VAE on music without motion, leave the sound they make of a clip beside the clip's own.
    """
    data = Manifest.load(config.data.root)
    clip = first_clips(data.root, "val" if data.split("val").num_rows else "train", 1)[0]
    if config.stage == "vocoder" or not data.holds_motion:
        made = _sound(config, weights, clip, device)
        folder.parent.mkdir(exist_ok=True)
        return _write_sound(folder, config.stage, made, clip.audio)
    stats = MotionStats.from_dict(facts["motion_stats"])
    if config.stage in DIRECTIONS.values():
        sample = _generate(config, weights, facts, exports, clip, stats, device)
    else:
        sample = _reconstruct(config, weights, clip, stats, device)
    folder.parent.mkdir(
        exist_ok=True
    )  # and nothing above it: meanwhile the run folder may have been moved away
    origin = {"input": clip.clip_id, "preview_of": config.name, "weights": folder.name}
    return list(write_sample(folder, config.stage, sample, origin).values())


def _generate(
    config: RunConfig, weights: Weights, facts: Mapping[str, Any], exports: Mapping[str, Export],
    clip: PreparedClip, stats: MotionStats, device: torch.device,
) -> Sample:  # fmt: skip
    dit = LatentDiT(config.model)
    dit.load_state_dict(weights)
    direction = next(d for d, stage in DIRECTIONS.items() if stage == config.stage)
    models = Models(
        music_vae=load_vae(exports["music_vae"]).to(device),
        motion_vae=load_vae(exports["motion_vae"]).to(device),
        motion_stats=stats,
        scales={name: LatentScale.from_dict(tree) for name, tree in facts["latent_scales"].items()},
        denoising={direction: denoising_of(dit, config, device)},
        device=device,
    )
    seconds = min(config.data.length_s[1], len(clip.motion_px) / MEL_RATE_HZ)
    given: dict[str, Any] = {"audio": clip.audio} if direction == "a2m" else {"motion_px": clip.motion_px}
    request = Request(direction, seconds=seconds, steps=PREVIEW_STEPS, **given)  # type: ignore[arg-type]
    return Generator(models).generate(request)[0]


def _reconstruct(
    config: RunConfig, weights: Weights, clip: PreparedClip, stats: MotionStats, device: torch.device
) -> Sample:
    music = config.stage == "music_vae"
    x = clip.mel if music else motion_channels(clip.motion_px, stats)
    rebuilt = _rebuilt(config, weights, x, device)
    vocoder = GriffinLim()
    motion = clip.motion_px if music else motion_from_channels(rebuilt, stats)
    mel = rebuilt if music else clip.mel
    audio = vocoder(torch.from_numpy(mel)[None], [0])[0].numpy() if music else clip.audio
    if music:
        hint_griffin_lim()
    request = Request("m2a" if music else "a2m")
    return Sample(
        request,
        motion,
        mel,
        audio,
        onset_times(audio, SAMPLE_RATE),
        kinematic_beats(motion),
        vocoder.name if music else None,
    )


@torch.no_grad()
def _rebuilt(config: RunConfig, weights: Weights, x: np.ndarray, device: torch.device) -> np.ndarray:
    """What the VAE of `weights` makes of `x` (C, T)."""
    vae = Autoencoder(config.model)
    vae.load_state_dict(weights)
    vae.to(device).eval()
    mean, _ = vae.encode(torch.from_numpy(np.array(x, dtype=np.float32))[None].to(device))
    rebuilt: np.ndarray = vae.decode(mean)[0].float().cpu().numpy()
    return rebuilt


@torch.no_grad()
def _sound(config: RunConfig, weights: Weights, clip: PreparedClip, device: torch.device) -> np.ndarray:
    """The sound (n,) that the vocoder, or the music VAE with Griffin-Lim, makes of the clip's mel."""
    if config.stage != "vocoder":
        mel = torch.from_numpy(_rebuilt(config, weights, clip.mel, device))
        return GriffinLim()(mel[None], [0])[0].numpy()
    vocoder = BigVGAN(config.model)
    vocoder.load_state_dict(weights)
    vocoder.to(device).eval()
    made: np.ndarray = vocoder(torch.tensor(clip.mel)[None].to(device))[0, 0].float().cpu().numpy()
    return made


def _write_sound(folder: Path, name: str, made: np.ndarray, original: np.ndarray) -> list[Path]:
    output_folder(folder)
    paths = [folder / f"{name}.wav", folder / f"{name}-original.wav"]
    for path, sound in zip(paths, (made, original), strict=True):
        write_wav(path, sound, SAMPLE_RATE)
    return paths
