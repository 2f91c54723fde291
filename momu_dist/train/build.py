"""From a run's config to its task and its feed: reads manifests and frozen weights, and checks that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from momu_dist.config.schema import RunConfig
from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.catalog import STAGES
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.tasks.base import Task, TaskInputs, motion_channels
from momu_dist.data.feed import FeedSpec
from momu_dist.data.latents import ClipEncoder, LatentManifest, UnitRunner, encode_latents, open_latents
from momu_dist.data.manifest import Manifest
from momu_dist.errors import CheckpointError, ConfigError
from momu_dist.inference.export import Export, find_export
from momu_dist.inference.models import load_vae, motion_stats_of

Facts = dict[str, Any]


def required_exports(config: RunConfig, data: Manifest) -> dict[str, Export]:
    """Return the frozen models that the stage needs; a missing or mismatched one is one clear sentence."""
    exports = {}
    for name in STAGES[config.stage].needs:
        path = getattr(config.inputs, name)
        if path is None:
            raise ConfigError(
                f"stage {config.stage} needs a trained {name}; set inputs.{name} to its run folder, for example "
                f"inputs.{name}=runs/{name}."
            )
        export = find_export(path, stage=name)
        theirs = export.facts.get("feature_fingerprint")
        if theirs != data.feature_fingerprint:
            raise CheckpointError(
                f"{export.folder} was trained on features {theirs}, the data at {data.root} has "
                f"{data.feature_fingerprint}; prepare the data again or train {name} on it."
            )
        exports[name] = export
    _check_latent_channels(config, exports)
    return exports


def _check_latent_channels(config: RunConfig, exports: Mapping[str, Export]) -> None:
    """A diffusion transformer reads what the two VAEs make; ConfigError where it has another number of channels."""
    if STAGES[config.stage].reads != "latents":
        return
    target, condition = ("music", "motion") if config.stage == "dit_m2a" else ("motion", "music")
    for field, modality in (("in_channels", target), ("condition_channels", condition)):
        found, made = getattr(config.model, field), exports[f"{modality}_vae"].config.model.z_channels
        if found != made:
            raise ConfigError(
                f"model.{field} is {found}, the {modality} VAE at {exports[f'{modality}_vae'].folder} makes {made} channels; "
                f"set model.{field}={made}."
            )


def open_run_latents(
    config: RunConfig, data: Manifest, exports: dict[str, Export], run_units: UnitRunner
) -> LatentManifest:
    """Return the cached latents of a diffusion stage, encoding them first where there are none."""
    weights = {name: export.sha256 for name, export in exports.items()}
    make_encoder = MakeEncoder(
        exports,
        motion_stats(data, exports),
        # Under Ray the driver has chosen for nodes that may have what its own has not.
        config.train.device if config.train.device != "auto" else pick_device(config).type,
    )

    def encode(root: Path, fingerprint: str) -> None:
        encode_latents(data, root, fingerprint, make_encoder, run_units)

    return open_latents(data, weights, config.data.latents, encode)


def build_task(
    config: RunConfig, latents: LatentManifest | None, data: Manifest, exports: dict[str, Export]
) -> Task:
    """Return the stage's task with everything frozen that it needs."""
    stage = STAGES[config.stage]
    music_vae = load_vae(exports["music_vae"]) if config.stage == "motion_vae" else None
    scales = None if latents is None else latents.scales(config.loss.latent_scaling)
    stats = motion_stats(data, exports) if stage.motion else None
    inputs = TaskInputs(crop_frames(config), stats, music_vae, scales)
    return stage.task(config.model, config.loss, inputs)


def crop_frames(config: RunConfig) -> tuple[int, int]:
    """Return the shortest and the longest crop, whole latents' worth of mel frames."""
    low, high = (max(2, 2 * int(seconds * MEL_RATE_HZ / 2)) for seconds in config.data.length_s)
    return low, high


def feed_spec(config: RunConfig, root: Path, columns: tuple[str, ...]) -> FeedSpec:
    """Return what any reader needs to serve this run's samples."""
    longest = crop_frames(config)[1]
    return FeedSpec(
        root=str(root),
        columns=columns,
        seed=config.seed,
        global_batch=config.train.global_batch,
        shuffle_row_groups=config.data.shuffle_row_groups,
        longest=longest // 2 if STAGES[config.stage].reads == "latents" else longest,
        # A vocoder's segments are all as long: what a clip lacks is silence.
        length_buckets=1 if config.stage == "vocoder" else config.data.length_buckets,
        validation_clips=config.data.validation_clips,
    )


def motion_stats(data: Manifest, exports: Mapping[str, Export]) -> MotionStats:
    """Return the statistics that motion is normalised with: those the motion VAE knows, else those of the data."""
    return motion_stats_of(exports["motion_vae"]) if "motion_vae" in exports else data.motion_stats


def pick_device(config: RunConfig) -> torch.device:
    """Return a process's device; `auto` is the GPU where there is one (under Ray the driver has decided already)."""
    name = config.train.device
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device is cuda, but this process sees no CUDA device; use train.device=cpu or a GPU node."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def export_facts(
    config: RunConfig, data: Manifest, exports: Mapping[str, Export], latents: LatentManifest | None
) -> Facts:
    """Return what an export says besides its config: what the weights know of their data."""
    facts: Facts = {
        "feature_fingerprint": data.feature_fingerprint,
        "data_fingerprint": data.fingerprint,
    }
    if data.holds_motion:
        facts["motion_stats"] = motion_stats(data, exports).to_dict()
    if latents is not None:
        scales = latents.scales(config.loss.latent_scaling)
        facts["latent_scales"] = {name: scale.to_dict() for name, scale in scales.items()}
    return facts


class MakeEncoder:
    """Makes the clip encoder where it is called; holds no weights, so that it travels to any worker.

    It reads those whose hash it was given, by which latents are named, or none (CheckpointError).
    """

    def __init__(self, exports: Mapping[str, Export], stats: MotionStats, device: str) -> None:
        self.exports = exports
        self.stats = stats
        self.device = device

    def __call__(self) -> ClipEncoder:
        device = torch.device(self.device)
        vaes = {name: load_vae(export).to(device) for name, export in self.exports.items()}

        def encode(mel: np.ndarray, motion_px: np.ndarray) -> dict[str, np.ndarray]:
            out = {}
            channels = {"music": mel, "motion": motion_channels(motion_px, self.stats)}
            for modality, array in channels.items():
                for part, value in zip(
                    ("mean", "logvar"), _encode(vaes[f"{modality}_vae"], array, device), strict=True
                ):
                    out[f"{modality}_{part}"] = value
            return out

        return encode


@torch.no_grad()
def _encode(vae: Autoencoder, array: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    x = torch.from_numpy(np.array(array, dtype=np.float32))[None].to(device)
    mean, logvar = vae.encode(x)
    return mean[0].T.float().cpu().numpy(), logvar[0].T.float().cpu().numpy()
