"""What each sampler costs and gives on trained models: network calls, seconds, beat scores, distance to a fine solution.

    python benchmarks/samplers.py --checkpoint runs/demo --data runs/demo/data -n 32 --guidance 2 > table.md

Every sampler starts from the same noise (the seeds of `momu evaluate`). Seconds are those of sampling alone, without
decoding and vocoder: medians over rounds in which all samplers take turns, on a fixed number of threads (CPU seconds: what
this process used of them, which a busy machine changes less). The reference is DDIM with so many steps that its own error
is small beside those measured (500 of 1000 steps begin at the last one; 200 do not, which already shows).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from momu_dist.core.audio.mel import SAMPLE_RATE
from momu_dist.core.audio.onsets import onset_times
from momu_dist.core.catalog import SAMPLERS
from momu_dist.core.diffusion.batching import Walkers
from momu_dist.core.diffusion.guidance import ConditionalModel
from momu_dist.core.diffusion.samplers import Sampler, Steps
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.motion.kinematics import kinematic_beats
from momu_dist.core.random import Seed
from momu_dist.data.clips import PreparedClip, first_clips
from momu_dist.inference.evaluate import EvaluationSettings, paired, request_for, shuffled
from momu_dist.inference.generator import Generator
from report import machine_line, table

SETTINGS = (("ddim", 50), ("ddim", 25), ("ddim", 10), ("dpm++", 20), ("dpm++", 15), ("dpm++", 10))
HEAD = (
    "direction", "sampler", "steps", "network calls", "rows a sample", "seconds", "CPU seconds", "generated", "shuffled",
    "distance",
)  # fmt: skip
# The name under which the sampler that keeps what it sees stands in the catalog while a benchmark runs.
KEPT = "kept"


@dataclass
class Counted:
    """A network that counts its calls, and the rows (samples, each twice under guidance) they held."""

    model: ConditionalModel
    calls: int = 0
    rows: int = 0

    def __call__(
        self, z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /
    ) -> Tensor:
        self.calls += 1
        self.rows += len(z)
        return self.model(z, t, condition, lengths, drop)


@dataclass
class Kept:
    """A sampler that keeps, by seed, the latents (C, L) it made."""

    sampler: Sampler
    latents: dict[Seed, Tensor] = field(default_factory=dict)

    def __call__(self, schedule: NoiseSchedule, z_T: Tensor, *, n_steps: int, seeds: Sequence[Seed]) -> Steps:
        z_0 = yield from self.sampler(schedule, z_T, n_steps=n_steps, seeds=seeds)
        self.latents |= dict(zip(seeds, z_0, strict=True))
        return z_0


@dataclass
class Result:
    """One sampler at one number of steps; `latents` by seed, (seconds, CPU seconds) a round."""

    sampler: str
    steps: int
    calls: float
    rows: float
    generated: float
    shuffled: float
    latents: dict[Seed, Tensor]
    seconds: list[tuple[float, float]] = field(default_factory=list)


def measure(
    generator: Generator,
    direction: str,
    clips: Sequence[PreparedClip],
    guidance: float,
    reference_steps: int,
    rounds: int,
) -> list[list[str]]:
    """Return the table's rows for one direction (m2a or a2m)."""
    counted = Counted(generator.models.denoising[direction].eps)
    net = replace(generator.models.denoising[direction], eps=counted)
    own = Generator(
        replace(generator.models, denoising={direction: net}), generator.vocoder, generator.max_batch
    )
    truth = (
        [onset_times(clip.audio, SAMPLE_RATE) for clip in clips]
        if direction == "m2a"
        else [kinematic_beats(clip.motion_px) for clip in clips]
    )
    results: list[Result] = []
    lengths: dict[int, int] = {}
    for sampler, steps in SETTINGS:
        counted.calls = counted.rows = 0
        settings = EvaluationSettings(steps, guidance, guidance, sampler=KEPT)
        requests = [request_for(direction, clip, i, settings) for i, clip in enumerate(clips)]
        with _keeping(sampler) as kept:
            samples = own.generate(requests)
        found = [sample.onsets_s if direction == "m2a" else sample.beats_s for sample in samples]
        lengths = {s.request.seed: len(s.motion_px) // 2 for s in samples}
        results.append(
            Result(
                sampler, steps, counted.calls, counted.rows / len(samples), paired(truth, found),
                shuffled(truth, found, [clip.group_id for clip in clips]), kept.latents,
            )
        )  # fmt: skip
    for _ in range(rounds):
        for result in results:
            settings = EvaluationSettings(result.steps, guidance, guidance, sampler=result.sampler)
            result.seconds.append(_seconds(own, direction, clips, settings))
    with _keeping("ddim") as kept:
        settings = EvaluationSettings(reference_steps, guidance, guidance, sampler=KEPT)
        own.generate([request_for(direction, clip, i, settings) for i, clip in enumerate(clips)])
    return [_row(direction, result, distance(result.latents, kept.latents, lengths)) for result in results]


@contextmanager
def _keeping(sampler: str) -> Iterator[Kept]:
    """The sampler of that name under the name KEPT, keeping what it makes."""
    SAMPLERS[KEPT] = kept = Kept(SAMPLERS[sampler])
    try:
        yield kept
    finally:
        del SAMPLERS[KEPT]


def distance(
    latents: Mapping[Seed, Tensor], reference: Mapping[Seed, Tensor], lengths: Mapping[int, int]
) -> float:
    """Return the mean over samples of |z - z_ref| / |z_ref| (L2 over channels and the sample's own latents)."""
    ratios = []
    for seed, length in lengths.items():
        z, fine = latents[seed][:, :length], reference[seed][:, :length]
        ratios.append(float((z - fine).norm() / fine.norm()))
    return statistics.fmean(ratios)


def _seconds(
    generator: Generator, direction: str, clips: Sequence[PreparedClip], settings: EvaluationSettings
) -> tuple[float, float]:
    requests = [request_for(direction, clip, i, settings) for i, clip in enumerate(clips)]
    walks = [generator.walk(generator.prepare(request)) for request in requests]
    began, cpu_began = time.perf_counter(), time.process_time()
    for start in range(0, len(walks), generator.max_batch):
        walkers: Walkers[int] = Walkers(generator.networks)
        for i, walk in enumerate(walks[start : start + generator.max_batch]):
            walkers.join(i, walk)
        while len(walkers):
            # Numbers on the CPU: on a GPU the work is done only then.
            for latents in walkers.step().values():
                latents[0].cpu()
    return time.perf_counter() - began, time.process_time() - cpu_began


def _row(direction: str, result: Result, distance: float) -> list[str]:
    wall, cpu = (statistics.median(column) for column in zip(*result.seconds, strict=True))
    return [
        direction, result.sampler, str(result.steps), f"{result.calls:g}", f"{result.rows:g}",
        f"{wall:.2f}", f"{cpu:.2f}", f"{result.generated:.3f}", f"{result.shuffled:.3f}",
        f"{distance:.4f}",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Samplers on trained models: calls, seconds, beats, distance."
    )
    parser.add_argument("--checkpoint", action="append", required=True, help="a run, or a folder of runs")
    parser.add_argument("--data", required=True, help="a prepared folder")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("-n", type=int, default=32, help="number of clips (32)")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--reference-steps", type=int, default=500, help="DDIM steps of the reference (500)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    generator = Generator.load(*options.checkpoint)
    clips = first_clips(options.data, options.split, options.n)
    rows = []
    for direction in generator.models.denoising:
        print(f"{direction}: {len(clips)} clips ...", file=sys.stderr, flush=True)
        rows += measure(
            generator, direction, clips, options.guidance, options.reference_steps, options.rounds
        )
    seconds = statistics.fmean(len(clip.audio) / SAMPLE_RATE for clip in clips)
    print(
        f"{machine_line(('torch', 'numpy'))}, {generator.models.device.type}, {options.threads} thread(s).\n"
    )
    print(
        f"{len(clips)} clips of the {options.split} split, {seconds:.2f} s each on average, guidance {options.guidance:g}; "
        f"seconds: all clips, sampling alone, median of {options.rounds} rounds; network calls: for all clips, "
        f"{generator.max_batch} at a time, "
        f"both branches of the guidance in one; distance: mean relative L2 of the latents to DDIM {options.reference_steps}.\n"
    )
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
