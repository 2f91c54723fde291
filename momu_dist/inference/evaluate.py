"""Beat scores of generated samples on held-out clips, beside what the numbers would be without any synchronisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from momu_dist.core.audio.mel import MEL_RATE_HZ, SAMPLE_RATE
from momu_dist.core.audio.onsets import onset_times
from momu_dist.core.metrics.beats import TOLERANCE_S, beat_score
from momu_dist.core.motion.bones import correct_bones
from momu_dist.core.motion.kinematics import kinematic_beats
from momu_dist.core.tasks.base import motion_channels, motion_from_channels
from momu_dist.data.clips import PreparedClip
from momu_dist.inference.generator import Generator
from momu_dist.inference.request import Request, Sample

Times = NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationSettings:
    """How samples are made: sampler and steps, and classifier-free guidance of each direction."""

    steps: int = 50
    guidance_a2m: float = 3.0
    guidance_m2a: float = 3.0
    seed: int = 0
    sampler: str = "ddim"


def evaluate_beats(
    generator: Generator, clips: Sequence[PreparedClip], settings: EvaluationSettings
) -> tuple[dict[str, dict[str, float]], dict[str, list[Sample]]]:
    """Return scores by direction (a2m, m2a, those the generator can do) and the samples they came from.

    Each direction has F1 with one-to-one matching at +-0.07 s, means over clips:

    `generated` against the true partner (m2a: onsets against its music's, a2m: kinematic beats against its motion's),
    `shuffled` against those of every clip of another group, `ceiling` of the VAE's reconstruction of the partner, `chance` of
    evenly spaced beats at the mean rate. For a2m `generated_vs_music` is the paper's reading: kinematic beats against the onsets
    of the music; `true_vs_music` is what the real motion scores there.
    """
    onsets = [onset_times(clip.audio, SAMPLE_RATE) for clip in clips]
    beats = [kinematic_beats(clip.motion_px) for clip in clips]
    scores: dict[str, dict[str, float]] = {}
    samples: dict[str, list[Sample]] = {}
    durations = [len(clip.motion_px) / MEL_RATE_HZ for clip in clips]
    for direction in generator.models.denoising:
        requests = [request_for(direction, clip, i, settings) for i, clip in enumerate(clips)]
        made = generator.generate(requests)
        samples[direction] = made
        truth, rebuild = (onsets, _rebuilt_onsets) if direction == "m2a" else (beats, _rebuilt_beats)
        found = [sample.onsets_s if direction == "m2a" else sample.beats_s for sample in made]
        scores[direction] = {
            "generated": paired(truth, found),
            "shuffled": shuffled(truth, found, [clip.group_id for clip in clips]),
            "ceiling": paired(truth, rebuild(generator, clips)),
            "chance": paired(truth, _even(truth, durations)),
            "n_clips": float(len(clips)),
            "beats_per_clip_true": fmean(len(times) for times in truth),
            "beats_per_clip_generated": fmean(len(times) for times in found),
        }
        if direction == "a2m":
            scores[direction]["generated_vs_music"] = paired(onsets, found)
            scores[direction]["true_vs_music"] = paired(onsets, beats)
    return scores, samples


def paired(truth: Sequence[Times], found: Sequence[Times]) -> float:
    """Return the mean F1 of each clip against its own partner."""
    return fmean(beat_score(t, f, TOLERANCE_S).f1 for t, f in zip(truth, found, strict=True))


def shuffled(truth: Sequence[Times], found: Sequence[Times], groups: Sequence[str]) -> float:
    """Return the mean F1 of each clip against all clips of other groups; NaN where there is only one group.

    Clips of one group (views of one dance, windows of one song) share their beats, so they are no strangers.
    """
    scores = [
        beat_score(t, f, TOLERANCE_S).f1
        for t, t_group in zip(truth, groups, strict=True)
        for f, f_group in zip(found, groups, strict=True)
        if t_group != f_group
    ]
    return fmean(scores) if scores else float("nan")


def request_for(direction: str, clip: PreparedClip, index: int, settings: EvaluationSettings) -> Request:
    """Return the request that makes the missing partner of clip number `index`, whose seed is settings.seed + index."""
    seed, steps, sampler = settings.seed + index, settings.steps, settings.sampler
    if direction == "a2m":
        return Request(
            "a2m", seed, steps=steps, guidance=settings.guidance_a2m, sampler=sampler, audio=clip.audio
        )
    return Request(
        "m2a", seed, steps=steps, guidance=settings.guidance_m2a, sampler=sampler, motion_px=clip.motion_px
    )


@torch.no_grad()
def _rebuilt_onsets(generator: Generator, clips: Sequence[PreparedClip]) -> list[Times]:
    vae, found = generator.models.music_vae, []
    for clip in clips:
        mel = torch.from_numpy(np.array(clip.mel))[None].to(generator.models.device)
        rebuilt = vae.decode(vae.encode(mel)[0]).float().cpu()
        found.append(onset_times(generator.vocoder(rebuilt, [0])[0].numpy(), SAMPLE_RATE))
    return found


@torch.no_grad()
def _rebuilt_beats(generator: Generator, clips: Sequence[PreparedClip]) -> list[Times]:
    models, found = generator.models, []
    for clip in clips:
        channels = np.ascontiguousarray(motion_channels(clip.motion_px, models.motion_stats))
        x = torch.from_numpy(channels)[None].to(models.device)
        rebuilt = models.motion_vae.decode(models.motion_vae.encode(x)[0])[0].float().cpu().numpy()
        motion = motion_from_channels(rebuilt, models.motion_stats)
        found.append(kinematic_beats(correct_bones(motion, models.motion_stats.bone_lengths_px)))
    return found


def _even(truth: Sequence[Times], durations_s: Sequence[float]) -> list[Times]:
    """Return evenly spaced beats at the mean rate of `truth`, starting half a period in."""
    period = sum(durations_s) / max(1, sum(len(times) for times in truth))
    return [np.arange(period / 2, duration, period) for duration in durations_s]
