"""What a run would do, without doing it: the resolved config, sizes, steps, memory, and warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.catalog import STAGES
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.core.models.bigvgan import BigVGAN
from momu_dist.core.models.discriminator import PatchDiscriminator
from momu_dist.core.models.dit import LatentDiT
from momu_dist.core.models.wave_discriminator import WaveDiscriminators
from momu_dist.data.feed import ShardReader, used_lengths
from momu_dist.data.manifest import MANIFEST, Manifest
from momu_dist.data.plan import choose_buckets
from momu_dist.train.build import feed_spec

_BYTES = {"weights": 4, "gradients": 4, "optimizer": 8, "ema": 4}
# What each strategy splits among the workers; weights are fp32, bf16 is autocast.
_SHARDED = {
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights", "ema"),
}


@dataclass(frozen=True)
class Size:
    """How long a run is: clips in its training split (counted or expected), steps an epoch and in all.

    `buckets` are what its batches are made from where clips are counted: clips, and seconds of the longest.
    """

    clips: int
    counted: bool
    steps_per_epoch: float
    total_steps: int
    buckets: tuple[tuple[int, float], ...] = ()


def run_size(config: RunConfig) -> Size:
    """Return the run's length; where the data is not there yet it is taken from `data.expected_clips`.

    Data that is there but cannot be used is a DataError.
    """
    counted = (Path(config.data.root) / MANIFEST).is_file()
    buckets: tuple[tuple[int, float], ...] = ()
    if counted:
        data = Manifest.load(config.data.root)
        if STAGES[config.stage].motion:
            data.require_motion(f"stage {config.stage}")
        reader = ShardReader(str(data.root), "train", (), keep=1)
        clips, buckets = len(reader), _buckets(config, reader)
    else:
        clips = config.data.expected_clips
    per_epoch = clips / config.train.global_batch
    total = config.train.max_steps or max(1, math.ceil(config.train.epochs * per_epoch))
    return Size(clips, counted, per_epoch, total, buckets)


def _buckets(config: RunConfig, reader: ShardReader) -> tuple[tuple[int, float], ...]:
    """The run's buckets by the clips of the prepared set: clips, and seconds of the longest."""
    frames = 2 if STAGES[config.stage].reads == "latents" else 1  # of what the run's own index counts
    spec = feed_spec(config, reader.root, ())
    used = used_lengths(reader.lengths() // frames, spec.longest)
    buckets = choose_buckets(used, spec.length_buckets, spec.global_batch)
    return tuple((bucket.clips, bucket.longest * frames / MEL_RATE_HZ) for bucket in buckets)


def parameter_counts(config: RunConfig) -> dict[str, int]:
    """Return the number of parameters of each network the stage trains, without allocating them."""
    with torch.device("meta"):
        networks: dict[str, nn.Module]
        if STAGES[config.stage].reads == "latents":
            networks = {"dit": LatentDiT(config.model)}
        elif config.stage == "vocoder":
            networks = {
                "vocoder": BigVGAN(config.model),
                "disc": WaveDiscriminators(config.loss.disc_ch),
            }
        else:
            networks = {"vae": Autoencoder(config.model)}
            if config.stage == "music_vae":
                networks["disc"] = PatchDiscriminator(ndf=config.loss.disc_ndf, norm=config.loss.disc_norm)
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}


def memory_gb(config: RunConfig) -> dict[str, float]:
    """Return GB a worker needs whatever the samples are: trained networks with their optimisers, frozen ones.

    Activations come on top; they grow with the micro-batch and the length of its samples.
    """
    sharded = _SHARDED.get(config.train.strategy, ())
    main, *others = parameter_counts(config).values()
    ema = config.train.ema_decay is not None
    parts = {name: size for name, size in _BYTES.items() if name != "ema" or ema}
    workers = config.train.usable(config.train.workers)
    gb = {name: main * size / (workers if name in sharded else 1) / 1e9 for name, size in parts.items()}
    if others:
        gb["discriminator"] = sum(others) * 16 / 1e9
    if config.stage == "motion_vae":
        gb["frozen music VAE"] = main * 4 / 1e9  # as large as the motion VAE but for its first and last layer
    return gb


def warnings(config: RunConfig, size: Size) -> list[str]:
    """Return what a person would want to know before days of computing."""
    found = []
    train = config.train
    if train.usable(train.workers) != train.workers:
        found.append(
            f"train.global_batch {train.global_batch} does not divide among train.workers {train.workers}: "
            f"{train.usable(train.workers)} are used."
        )
    if train.min_workers is not None and not train.fits(train.min_workers):
        found.append(
            f"train.min_workers {train.min_workers} cannot share train.global_batch {train.global_batch}: the next larger "
            "number that can is used."
        )
    if config.optim.warmup_steps >= size.total_steps:
        found.append(
            f"the warm-up of {config.optim.warmup_steps} steps never ends: the run has {size.total_steps}; the rate stays below "
            f"{size.total_steps / config.optim.warmup_steps:.0%} of optim.lr. Lower optim.warmup_steps or train longer."
        )
    if getattr(config.loss, "gan_start", 0.0) >= 1.0:
        found.append(
            f"the GAN never starts: loss.gan_start is {config.loss.gan_start} of the run; set it below 1 (a share of the run)."
        )
    if not size.counted:
        found.append(
            f"no prepared data at {config.data.root}: steps are counted from data.expected_clips = {config.data.expected_clips}."
        )
    return found


def _beside_expected(config: RunConfig, size: Size) -> str:
    expected = config.data.expected_clips
    if not size.counted:
        return " (expected)"
    return "" if size.clips == expected else f" (counted; data.expected_clips is {expected:,})"


def _buckets_line(size: Size) -> str:
    return "buckets by length: " + ", ".join(
        f"{clips:,} clips up to {seconds:.3g} s" for clips, seconds in size.buckets
    )


def report(config: RunConfig) -> str:
    """Return the whole dry run as text."""
    size = run_size(config)
    counts = parameter_counts(config)
    train = config.train
    workers = train.usable(train.workers)
    micro = train.micro
    frames = config.data.length_s[1] * MEL_RATE_HZ
    memory = memory_gb(config)
    lines = [yaml.safe_dump(resolved_dict(config), sort_keys=False).rstrip(), ""]
    lines += [f"parameters of {name}: {count:,}" for name, count in counts.items()]
    lines += [
        f"clips to train on: {size.clips:,}{_beside_expected(config, size)}",
        *([_buckets_line(size)] if size.buckets else []),
        f"steps per epoch: {size.steps_per_epoch:,.1f}; steps in all: {size.total_steps:,}",
        f"a step: {train.global_batch} samples = {workers} workers x {train.global_batch // (workers * micro)} micro-batches "
        f"x {micro}, up to {frames:,.0f} frames each",
        "memory per worker, before activations: "
        + f"{sum(memory.values()):.2f} GB ("
        + ", ".join(f"{name} {value:.2f}" for name, value in memory.items())
        + ")",
    ]
    lines += [f"warning: {text}" for text in warnings(config, size)]
    return "\n".join(lines)
