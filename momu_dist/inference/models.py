"""Trained networks and what they need to be used: read from exports, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from momu_dist.core.diffusion.guidance import ConditionalModel, as_eps
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.latents import LatentScale
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.core.models.dit import LatentDiT
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.errors import CheckpointError
from momu_dist.inference.export import Export, exports_under, find_export, settled

DIRECTIONS = {"m2a": "dit_m2a", "a2m": "dit_a2m"}


@dataclass(frozen=True)
class Denoising:
    """A diffusion transformer as a predictor of eps, with its schedule; `max_latents` where its positions end."""

    eps: ConditionalModel
    schedule: NoiseSchedule
    channels: int
    max_latents: int | None = None


@dataclass(frozen=True)
class Models:
    """Everything a generator uses. `denoising` holds the directions (m2a, a2m) that were found."""

    music_vae: Autoencoder
    motion_vae: Autoencoder
    motion_stats: MotionStats
    scales: Mapping[str, LatentScale]
    denoising: Mapping[str, Denoising]
    device: torch.device
    origins: Mapping[str, str] = field(default_factory=dict)


def load_vae(export: Export) -> Autoencoder:
    """Return the trained autoencoder of a music_vae or motion_vae export."""
    vae = Autoencoder(export.config.model)
    export.load_into(vae)
    return vae


def motion_stats_of(export: Export) -> MotionStats:
    """Return the motion statistics of the data the weights were trained on."""
    return export.motion_stats


def denoising_of(dit: nn.Module, export_config: object, device: torch.device) -> Denoising:
    """Return `dit` ready for sampling, given its run's config."""
    model, loss = export_config.model, export_config.loss  # type: ignore[attr-defined]
    schedule = NoiseSchedule.linear(loss.diffusion_steps)
    eps = as_eps(dit.to(device).eval(), schedule, model.prediction)
    longest = (model.max_len - 1) // 2 if model.positions == "learned" else None
    return Denoising(eps, schedule, model.in_channels, longest)


def load_models(checkpoints: Sequence[str | Path], device: torch.device) -> Models:
    """Read one or both diffusion transformers (run folders, exports, or a folder of runs) with their VAEs.

    Of several runs of a stage in one folder of runs, the one that is called as the stage is meant.
    Raises CheckpointError where there is no diffusion transformer, two different ones of one direction, or where two
    do not share their VAEs.
    """
    round_as_fp32(device)
    return settled(lambda: _transformers(checkpoints), lambda found: _assembled(found, device))


def round_as_fp32(device: torch.device) -> None:
    """Let this process's convolutions on a GPU round as fp32 does.

    torch's default there is TF32, whose rounding depends on the shape of a call: a sample would depend, to 6e-4 of its
    latents after 50 steps instead of 1e-6, on who shares its calls.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False


def check_models(checkpoints: Sequence[str | Path]) -> None:
    """Raise what `load_models` would, but for what is wrong with the weights themselves, which are not read."""
    settled(lambda: _transformers(checkpoints), _vaes)


def _transformers(checkpoints: Sequence[str | Path]) -> list[Export]:
    """Return the diffusion transformers to use, one or two."""
    found = {export.folder: export for path in checkpoints for export in _meant(exports_under(path))}
    dits: dict[str, Export] = {}
    for direction, stage in DIRECTIONS.items():
        for export in found.values():
            if export.stage == stage and dits.setdefault(direction, export).sha256 != export.sha256:
                raise CheckpointError(
                    f"two different models of {stage} are given: {dits[direction].folder} and {export.folder}, expected one; "
                    f"name the run that is meant, and that of the other direction, instead of a folder of runs, of "
                    f"which only one that is called {stage} would be taken."
                )
    if not dits:
        stages = ", ".join(export.stage for export in found.values())
        raise CheckpointError(
            f"no diffusion transformer under {', '.join(map(str, checkpoints))} (found {stages}); "
            "name the run folder of a dit_m2a or dit_a2m stage, or a folder that holds both."
        )
    return list(dits.values())


def _meant(found: Sequence[Export]) -> list[Export]:
    """Of several runs of a stage in one folder only that which is called as the stage, if there is one."""
    called = {export.stage for export in found if export.folder.parent.name == export.stage}
    return [e for e in found if e.stage not in called or e.folder.parent.name == e.stage]


def _by_direction(found: Sequence[Export]) -> dict[str, Export]:
    return {direction: e for direction, stage in DIRECTIONS.items() for e in found if e.stage == stage}


def _vaes(found: Sequence[Export]) -> dict[str, Export]:
    """Return the VAEs of transformers, which must be the same for all of them, as must be what they take for latents."""
    dits, first = _by_direction(found), found[0]
    vaes = {name: find_export(first.folder / name, stage=name) for name in ("music_vae", "motion_vae")}
    for export in dits.values():
        for name, vae in vaes.items():
            if find_export(export.folder / name, stage=name).sha256 != vae.sha256:
                raise CheckpointError(
                    f"{export.folder} and {first.folder} were trained with different {name}s; joint generation needs "
                    "two diffusion transformers over the same latents."
                )
    _check_same_latents(dits)
    return vaes


def _assembled(found: Sequence[Export], device: torch.device) -> Models:
    dits, first, vaes = _by_direction(found), found[0], _vaes(found)
    denoising = {}
    for direction, export in dits.items():
        dit = LatentDiT(export.config.model)
        export.load_into(dit)
        denoising[direction] = denoising_of(dit, export.config, device)
    return Models(
        music_vae=load_vae(vaes["music_vae"]).to(device),
        motion_vae=load_vae(vaes["motion_vae"]).to(device),
        motion_stats=motion_stats_of(first),
        scales=first.latent_scales,
        denoising=denoising,
        device=device,
        origins={**{d: e.sha256 for d, e in dits.items()}, **{name: e.sha256 for name, e in vaes.items()}},
    )


def _check_same_latents(dits: Mapping[str, Export]) -> None:
    """Both directions must speak of the same latents: one scale a modality, one schedule."""
    first, *others = dits.values()
    for other in others:
        for what, ours, theirs in (
            ("latent_scales", first.facts["latent_scales"], other.facts["latent_scales"]),
            ("diffusion_steps", first.config.loss.diffusion_steps, other.config.loss.diffusion_steps),
        ):
            if ours != theirs:
                raise CheckpointError(
                    f"{other.folder} and {first.folder} were trained with other {what}; joint generation needs two "
                    "diffusion transformers with the same loss.latent_scaling, latents and loss.diffusion_steps."
                )
