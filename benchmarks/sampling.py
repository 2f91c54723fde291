"""Joint samples: network calls and seconds of one call a branch and network, of ours, and of fewer steps of second order.

    python benchmarks/sampling.py --checkpoint runs/demo -n 24 --seconds 8.192 --out docs/results/joint-sampling.md

`naive` evaluates each branch of each network of each sample in a call of its own, as Algorithm 2 is read. `ours` lets all
samples share their calls (`core.diffusion.batching`). Beats: F1 of the kinematic beats of the generated motion against
the onsets of the generated music, one-to-one at +-0.07 s; `shuffled` against those of the other samples. `error` is the
standard error of the mean over samples. All kinds start from the same noise, so they are compared sample by sample; rounds
take turns, seconds are those of sampling alone.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from momu_dist.core.diffusion.batching import Walkers, evaluate
from momu_dist.core.diffusion.guidance import ConditionalModel, Walk
from momu_dist.core.metrics.beats import TOLERANCE_S, beat_score
from momu_dist.inference.evaluate import shuffled
from momu_dist.inference.generator import Generator
from momu_dist.inference.request import Request, variations
from report import machine_line, publish, table

HEAD = (
    "kind",
    "sampler",
    "steps",
    "calls a sample",
    "fewer",
    "seconds a sample",
    "faster",
    "beats",
    "error",
    "shuffled",
)
KINDS = (
    ("naive", "ddim", 50),
    ("ours", "ddim", 50),
    ("ours", "dpm++", 20),
    ("ours", "dpm++", 15),
    ("ours, alone", "dpm++", 15),
)


@dataclass
class Counted:
    """A network that counts its calls."""

    model: ConditionalModel
    calls: int = 0

    def __call__(
        self, z: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None, drop: Tensor, /
    ) -> Tensor:
        self.calls += 1
        return self.model(z, t, condition, lengths, drop)


@dataclass
class Result:
    """What one kind cost and gave."""

    calls: float = 0.0
    seconds: list[float] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)
    """F1 of each sample."""
    strangers: float = 0.0


def walk_all(generator: Generator, requests: Sequence[Request], at_once: int) -> list[tuple[Tensor, ...]]:
    """The latents of each request, `at_once` of which share network calls."""
    prepared = [generator.prepare(request) for request in requests]
    found: dict[int, tuple[Tensor, ...]] = {}
    for start in range(0, len(prepared), at_once):
        walkers: Walkers[int] = Walkers(generator.networks)
        for i in range(start, min(start + at_once, len(prepared))):
            walkers.join(i, generator.walk(prepared[i]))
        while len(walkers):
            found |= walkers.step()
    return [found[i] for i in range(len(requests))]


def walk_naively(generator: Generator, requests: Sequence[Request]) -> list[tuple[Tensor, ...]]:
    """The same latents, each branch of each network of each sample in a call of its own."""

    def latents(walk: Walk) -> tuple[Tensor, ...]:
        asks = next(walk)
        while True:
            try:
                asks = walk.send([evaluate(generator.networks, [ask])[0] for ask in asks])
            except StopIteration as end:
                return tuple(end.value)

    return [latents(generator.walk(generator.prepare(request))) for request in requests]


def wait_for(generator: Generator) -> None:
    """Wait until a GPU has done what it was asked: it answers before."""
    if generator.models.device.type == "cuda":
        torch.cuda.synchronize(generator.models.device)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, NaN of a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def measure(
    generator: Generator, request: Request, n: int, rounds: int
) -> dict[tuple[str, str, int], Result]:
    """What each of `KINDS` cost and gave."""
    counted = {name: Counted(net) for name, net in generator.networks.items()}
    generator.networks = dict(counted)
    results = {kind: Result() for kind in KINDS}
    walk_naively(generator, variations(replace(request, steps=2), 1))  # what only the first calls cost
    walk_all(generator, variations(replace(request, steps=2), n), n)
    for turn in range(rounds):
        for kind, sampler, steps in KINDS:
            requests = variations(replace(request, sampler=sampler, steps=steps), n)
            for net in counted.values():
                net.calls = 0
            wait_for(generator)
            began = time.perf_counter()
            if kind == "naive":
                latents = walk_naively(generator, requests)
            else:
                latents = walk_all(generator, requests, n if kind == "ours" else 1)
            wait_for(generator)
            result = results[kind, sampler, steps]
            result.seconds.append((time.perf_counter() - began) / n)
            result.calls = sum(net.calls for net in counted.values()) / n
            if turn == 0:
                samples = [
                    generator.finish(generator.prepare(one), z)
                    for one, z in zip(requests, latents, strict=True)
                ]
                onsets, beats = [s.onsets_s for s in samples], [s.beats_s for s in samples]
                result.beats = [beat_score(o, b, TOLERANCE_S).f1 for o, b in zip(onsets, beats, strict=True)]
                result.strangers = shuffled(onsets, beats, [str(i) for i in range(n)])
            print(f"round {turn + 1}: {kind} {sampler} {steps}", file=sys.stderr, flush=True)
    return results


def rows_of(results: dict[tuple[str, str, int], Result]) -> list[list[str]]:
    """The table's rows."""
    first = results[KINDS[0]]
    rows = []
    for (kind, sampler, steps), result in results.items():
        seconds, naive = statistics.median(result.seconds), statistics.median(first.seconds)
        beats, error = mean_and_error(result.beats)
        rows.append(
            [
                kind, sampler, str(steps), f"{result.calls:.1f}", f"{first.calls / result.calls:.1f} x",
                f"{seconds:.3f}", f"{naive / seconds:.2f} x", f"{beats:.3f}", f"{error:.3f}", f"{result.strangers:.3f}",
            ]
        )  # fmt: skip
    return rows


def closing(results: dict[tuple[str, str, int], Result]) -> str:
    """What the beats of the settings say of one another, and no more than they say."""
    beats = {(sampler, steps): result.beats for (_, sampler, steps), result in results.items()}
    (first, reference), *others = beats.items()
    lines = []
    for (sampler, steps), found in others:
        mean, error = mean_and_error([b - a for a, b in zip(reference, found, strict=True)])
        said = f"{'more' if mean > 0 else 'fewer'} beats" if abs(mean) > 2 * error else "not told apart"
        lines.append(
            f"- {sampler} with {steps} steps less {first[0]} with {first[1]}: {mean:+.3f} +- {error:.3f}, {said}."
        )
    return (
        f"Beats of the same {len(reference)} samples, mean difference and its standard error (told apart: beyond two of it):\n\n"
        + "\n".join(lines)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Joint samples: network calls and seconds.")
    parser.add_argument("--checkpoint", action="append", required=True, help="runs of both directions")
    parser.add_argument("-n", type=int, default=24, help="samples (24)")
    parser.add_argument("--seconds", type=float, default=8.192)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (1)")
    parser.add_argument("--out", type=Path, help="where the table goes (the terminal)")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    torch.set_num_threads(options.threads)
    generator = Generator.load(*options.checkpoint)
    request = Request("joint", seconds=options.seconds, guidance=options.guidance)
    results = measure(generator, request, options.n, options.rounds)
    on_gpu = generator.models.device.type == "cuda"
    device = torch.cuda.get_device_name(generator.models.device) if on_gpu else "no GPU"
    text = (
        f"{machine_line(('torch', 'numpy'))}, {device}, {options.threads} thread(s); load of the machine by others, the minute "
        f"before: {load:.1f}.\n\n"
        f"{options.n} joint samples of {options.seconds:g} s, gamma 0.5, guidance {options.guidance:g}; calls: of both "
        f"networks together; medians of {options.rounds} rounds. `ours`: all samples share calls; `ours, alone`: each "
        f"sample by itself.\n\n{table(HEAD, rows_of(results))}\n\n{closing(results)}\n"
    )
    publish("Joint sampling", text, options.out)


if __name__ == "__main__":
    main()
