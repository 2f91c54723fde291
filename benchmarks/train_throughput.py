"""What the data path and the engines cost: samples/s of one training, from a bare torch loop to Ray, in one run.

    python benchmarks/train_throughput.py [--workers 1 2] [--steps 40] [--rounds 2] [section.key=value ...] > table.md

(a) `bare`: the task's own loss in a plain torch loop over batches that lie in memory; two workers are torchrun and DDP.
(b) `local`: the local engine, read from parquet (one worker).
(c) `ray`: Ray Train with DeepSpeed, read from parquet by Ray Data.
All have the same network, samples, batch, threads and optimiser. The rounds take turns, so that a change of the machine's
speed meets all of them; the table holds medians. `data wait` is the share of time that the loop waited for its next batch,
`CPU` the processor time of everything the variant ran, per second of its steps, in cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from momu_dist.config.load import load_config
from momu_dist.config.schema import RunConfig
from momu_dist.core.seeds import seed_of
from momu_dist.data.feed import LocalFeed
from momu_dist.data.latents import in_process
from momu_dist.data.manifest import Manifest
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources import make_source
from momu_dist.train.build import build_task, feed_spec, open_run_latents, required_exports
from momu_dist.train.ray_session import ray_session
from momu_dist.train.run import train
from report import machine_line, table

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"
WARM_UP = 10  # steps that are not counted: first calls, first row groups, Ray's pipeline filling
IN_MEMORY = 8  # batches that the bare loop takes in turn


@dataclass(frozen=True)
class Measured:
    """One variant's run: training samples/s, share of waiting, cores in use."""

    samples_per_s: float
    data_wait: float
    cores: float


def run_config(
    work: Path, strategy: str, workers: int, steps: int, name: str, overrides: list[str]
) -> RunConfig:
    return load_config(
        CONFIGS / "dit_a2m.yaml",
        [
            *(f"out={work}", f"data.root={work / 'data'}", f"name={name}"),
            *(f"inputs.music_vae={work / 'music_vae'}", f"inputs.motion_vae={work / 'motion_vae'}"),
            *("train.threads=1", "train.ema_decay=null", "tracking.uri=none", "data.validation_clips=0"),
            *(f"train.max_steps={steps}", "train.log_every=5", "optim.warmup_steps=0"),
            *("train.validate_every=100000", "train.checkpoint_every=100000"),
            *(f"train.strategy={strategy}", f"train.workers={workers}", *overrides),
        ],
    )


def make_inputs(work: Path) -> None:
    """A prepared set and two VAEs of a few steps: throughput does not ask what they have learned."""
    prepare(make_source("synthetic", n_clips=200), work / "data", PrepareOptions(shard_mb=16.0))
    for stage in ("music_vae", "motion_vae"):
        paths = [f"out={work}", f"data.root={work / 'data'}", f"inputs.music_vae={work / 'music_vae'}"]
        short = ["train.max_steps=2", "train.strategy=local", "train.workers=1", "tracking.uri=none"]
        used = paths if stage == "motion_vae" else paths[:2]
        train(load_config(CONFIGS / f"{stage}.yaml", [*used, *short, "optim.warmup_steps=0"]))


def bare_loop(config: RunConfig) -> None:
    """Variant (a), as one rank of torchrun or alone; rank 0 prints its measurement as JSON."""
    torch.set_num_threads(1)
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    if workers > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if workers > 1 else 0
    data = Manifest.load(config.data.root)
    exports = required_exports(config, data)
    latents = open_run_latents(config, data, exports, in_process)
    task = build_task(config, latents, data, exports)
    feed = LocalFeed(feed_spec(config, latents.root, task.columns), rank, workers)
    batches = []
    for rows in feed.steps(0, IN_MEMORY):
        seeds = [seed_of(config.seed, int(row["epoch"]), str(row["clip_id"])) for row in rows]
        batches.append(task.collate(rows, seeds))
    torch.manual_seed(0)
    (name, net), *_ = task.networks().items()
    module: nn.Module = DistributedDataParallel(net) if workers > 1 else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.optim.lr)
    steps = config.train.max_steps or 0
    began, cpu = 0.0, 0.0
    for step in range(steps):
        if step == WARM_UP:
            began, cpu = time.perf_counter(), time.process_time()
        for phase in task.phases({name: module}, batches[step % IN_MEMORY], step / steps):
            phase.total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    cores = torch.tensor((time.process_time() - cpu) / seconds)
    if workers > 1:
        dist.all_reduce(cores)
        dist.destroy_process_group()
    if rank == 0:
        rate = (steps - WARM_UP) * config.train.global_batch / seconds
        print(json.dumps({"samples_per_s": rate, "data_wait": 0.0, "cores": float(cores)}))


def run_bare(work: Path, workers: int, steps: int, overrides: list[str]) -> Measured:
    launcher = [sys.executable]
    if workers > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc-per-node={workers}", "--standalone"]
    command = [*launcher, __file__, "--bare", str(work), "--workers", str(workers), "--steps", str(steps)]
    result = subprocess.run([*command, *overrides], check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(result.stdout.strip().splitlines()[-1]))


def run_momu(config: RunConfig) -> Measured:
    """Variants (b) and (c): one training of the package, measured by what it logs."""
    with busy_cores() as cores:
        folder = train(config)
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    counted = [entry for entry in entries if "samples_per_s" in entry and entry["step"] > WARM_UP]
    # Every entry holds the same number of steps, so times add up as inverse rates.
    seconds = [1.0 / entry["samples_per_s"] for entry in counted]
    wait = sum(s * entry["data_wait"] for s, entry in zip(seconds, counted, strict=True)) / sum(seconds)
    first, last = counted[0]["time"], counted[-1]["time"]
    inside = [value for when, value in cores if first <= when <= last]
    return Measured(len(seconds) / sum(seconds), wait, statistics.mean(inside) if inside else float("nan"))


@contextmanager
def busy_cores(every_s: float = 1.0) -> Iterator[list[tuple[float, float]]]:
    """Samples (time, cores in use) of the whole machine while the body runs: Ray's processes are nobody's children."""
    samples: list[tuple[float, float]] = []
    stop = threading.Event()

    def watch() -> None:
        psutil.cpu_percent()
        while not stop.wait(every_s):
            samples.append((time.time(), psutil.cpu_percent() / 100 * (os.cpu_count() or 1)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def median(runs: list[Measured]) -> Measured:
    return Measured(
        *(statistics.median(getattr(run, name) for run in runs) for name in Measured.__annotations__)
    )


def compare(work: Path, workers: list[int], steps: int, rounds: int, overrides: list[str]) -> str:
    make_inputs(work)
    found: dict[tuple[str, int], list[Measured]] = {}
    for turn in range(rounds):
        for n in workers:
            found.setdefault(("bare", n), []).append(run_bare(work, n, steps, overrides))
            if n == 1:
                config = run_config(work, "local", 1, steps, f"local-{turn}", overrides)
                found.setdefault(("local", 1), []).append(run_momu(config))
            config = run_config(work, "zero1", n, steps, f"ray-{n}-{turn}", overrides)
            with ray_session(workers=n):
                found.setdefault(("ray", n), []).append(run_momu(config))
    rows: list[list[Any]] = []
    batch = run_config(work, "local", 1, steps, "x", overrides).train.global_batch
    for (variant, n), runs in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        m, base = median(runs), median(found[("bare", n)])
        rates = " ".join(f"{run.samples_per_s:.1f}" for run in runs)
        rows.append(
            [variant, n, f"{m.samples_per_s:.1f}", rates, f"{batch / m.samples_per_s:.3f}"]
            + [f"{m.samples_per_s / base.samples_per_s:.3f}", f"{m.data_wait:.1%}", f"{m.cores:.2f}"]
        )
    head = ["variant", "workers", "samples/s", "each round", "s/step", "of bare", "data wait", "CPU (cores)"]
    return f"{machine_line()}; {steps} steps, {WARM_UP} not counted; {' '.join(overrides)}\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_args()
    if options.bare:
        n = options.workers[0]
        bare_loop(
            run_config(options.bare, "ddp" if n > 1 else "local", n, options.steps, "bare", options.overrides)
        )
        return
    with tempfile.TemporaryDirectory(prefix="momu-bench-") as work:
        print(compare(Path(work), options.workers, options.steps, options.rounds, options.overrides))


if __name__ == "__main__":
    main()
