"""What a killed worker costs: seconds to the next step and steps lost, beside what one would write by hand; in one run.

    python benchmarks/recovery.py [--kills 3] [--every 10] --out docs/results/recovery.md

(a) `momu`: Ray Train on two workers (`ddp` and `zero2`), a checkpoint every `--every` steps.
(b) `by hand`: torchrun with DistributedDataParallel, started again where it failed; `torch.save` on rank 0 after an epoch.
Both train the same network on the same samples, and one of their workers is killed (SIGKILL) in the same places, by turns.
`seconds` run from the kill to the first step that is logged after it, which may have been done before; `lost` are steps
that had been logged and are done again. The second table is what saving costs: the same training, with averaged weights, with
a checkpoint every `--every` steps and with none; validation, which comes with every checkpoint, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from train_throughput import make_inputs, run_config

from momu_dist.config.schema import RunConfig
from momu_dist.core.seeds import seed_of
from momu_dist.data.feed import LocalFeed
from momu_dist.data.latents import in_process
from momu_dist.data.manifest import Manifest
from momu_dist.train.build import build_task, feed_spec, open_run_latents, required_exports
from momu_dist.train.folder import read_metrics
from momu_dist.train.ray_session import ray_session
from momu_dist.train.run import train
from report import machine_line, table

STEPS = 120
TIMEOUT_S = 300.0


def config_of(work: Path, strategy: str, name: str, every: int, steps: int = STEPS) -> RunConfig:
    more = [f"train.checkpoint_every={every}", "train.log_every=1", "train.max_failures=10"]
    return run_config(work, strategy, 2, steps, name, more)


# ------------------------------------------------------------------------------------------------------ by hand


def by_hand(config: RunConfig) -> None:
    """What a careful user would write: a rank of torchrun that resumes at the last epoch it finished."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    data = Manifest.load(config.data.root)
    exports = required_exports(config, data)
    latents = open_run_latents(config, data, exports, in_process)
    task = build_task(config, latents, data, exports)
    feed = LocalFeed(feed_spec(config, latents.root, task.columns), rank, dist.get_world_size())
    torch.manual_seed(0)
    (name, net), *_ = task.networks().items()
    module: nn.Module = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.optim.lr)
    folder = Path(config.out) / config.name
    saved, steps = folder / "last.pt", config.train.max_steps or 0
    first = 0
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        first = int(state["step"])
    epoch = round(feed.reader.plan.steps_per_epoch)
    for step, rows in enumerate(feed.steps(first, steps), start=first):
        seeds = [seed_of(config.seed, int(row["epoch"]), str(row["clip_id"])) for row in rows]
        for phase in task.phases({name: module}, task.collate(rows, seeds), step / steps):
            phase.total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if rank == 0:
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": done, "time": time.time(), "total": 0.0}) + "\n")
            if done % epoch == 0 or done == steps:
                state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
                torch.save(state, saved.with_suffix(".part"))
                saved.with_suffix(".part").rename(saved)
    dist.destroy_process_group()


# ------------------------------------------------------------------------------------------------------ killing


def workers_of(marks: tuple[str, ...]) -> list[psutil.Process]:
    """The worker processes below this one, told by their command lines."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if all(any(mark in part for part in line) for mark in marks) and "torch.distributed.run" not in line:
            found.append(process)
    return found


def steps_of(run: Path) -> list[tuple[int, float]]:
    path = run / "metrics.jsonl"
    return [(e["step"], e["time"]) for e in read_metrics(path) if "total" in e] if path.is_file() else []


def broken(
    run: Path, start: Callable[[], object], marks: tuple[str, ...], kills: list[int]
) -> list[tuple[float, int]]:
    """Start a training, kill a worker after each of the steps `kills`; return (seconds, steps lost) of each kill."""
    costs: list[tuple[float, int]] = []

    def watch() -> None:
        for step in kills:
            wait(lambda step=step: steps_of(run) and steps_of(run)[-1][0] >= step)  # type: ignore[misc]
            random.Random(step).choice(workers_of(marks)).kill()
            when = time.time()
            time.sleep(1.0)  # what was on its way to the log is there; nothing starts again so soon
            reached = steps_of(run)[-1][0]
            again = next_step(run)
            costs.append((time.time() - when, reached - again + 1))

    killer = threading.Thread(target=watch, daemon=True)
    killer.start()
    start()
    killer.join(10)
    assert len(costs) == len(kills), f"{run.name}: the training ended before all kills"
    return costs


def next_step(run: Path) -> int:
    """Wait for the next line of a step, and return its step; a restart may write the log anew first, without lost steps."""
    log, known = run / "metrics.jsonl", (0, 0)

    def appended() -> bool:
        nonlocal known
        file, lines = log.stat().st_ino, len(steps_of(run))
        if file != known[0]:
            known = (file, lines)
        return lines > known[1]

    wait(appended)
    return steps_of(run)[known[1]][0]


def wait(reached: Callable[[], object]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def run_by_hand(work: Path, name: str, every: int, steps: int) -> None:
    (work / name).mkdir(exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*launcher, __file__, "--by-hand", str(work), "--name", name]
    command += ["--every", str(every), "--steps", str(steps)]
    # A loop as in a shell: with --max-restarts what torchrun starts again hangs in gloo's first meeting (torch 2.13).
    for _ in range(10):
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return
    raise RuntimeError(f"{name} did not end in ten attempts")


def recovery(work: Path, kills: int, every: int) -> list[list[str]]:
    rng = random.Random(0)
    at = [rng.randrange((i * STEPS) // kills + 5, ((i + 1) * STEPS) // kills - 5) for i in range(kills)]
    found = {
        "by hand, torchrun and DDP, per epoch": broken(
            work / "hand", lambda: run_by_hand(work, "hand", every, STEPS), ("recovery.py", "--by-hand"), at
        )
    }
    for strategy in ("ddp", "zero2"):
        with ray_session(workers=2):
            config = config_of(work, strategy, strategy, every)
            found[f"momu, {strategy}, every {every} steps"] = broken(
                work / strategy,
                partial(train, config),
                ("RayTrainWorker",),
                at,  # type: ignore[misc]
            )
    return [
        [
            name,
            f"{statistics.median(s for s, _ in costs):.1f}",
            " ".join(f"{s:.1f}" for s, _ in costs),
            " ".join(str(lost) for _, lost in costs),
        ]
        for name, costs in found.items()
    ]


def saving(work: Path, every: int, rounds: int = 2) -> list[list[str]]:
    """Seconds a step with and without checkpoints, in turn."""
    rows = []
    for strategy in ("ddp", "zero2"):
        seconds: dict[str, list[float]] = {}
        for turn in range(rounds):
            for name, interval in (("none", 10**6), (f"every {every} steps", every)):
                config = config_of(work, strategy, f"saving-{strategy}-{interval}-{turn}", interval, steps=61)
                config = replace(config, train=replace(config.train, ema_decay=0.999))
                with ray_session(workers=2):
                    run = train(config)
                times = [when for step, when in steps_of(run) if 10 <= step <= 60]
                seconds.setdefault(name, []).append((times[-1] - times[0]) / (len(times) - 1))
        base = statistics.median(seconds["none"])
        for name, v in seconds.items():
            middle = statistics.median(v)
            each = " ".join(f"{x:.4f}" for x in v)
            rows.append([strategy, name, f"{middle:.4f}", each, f"{middle / base - 1:+.1%}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--out", type=Path, help="where the tables are written, besides here")
    parser.add_argument("--by-hand", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_hand:
        by_hand(config_of(options.by_hand, "ddp", options.name, options.every, options.steps))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="momu-bench-") as folder:
        work = Path(folder)
        make_inputs(work)
        config = config_of(work, "ddp", "latents", options.every)
        data = Manifest.load(config.data.root)
        open_run_latents(config, data, required_exports(config, data), in_process)  # encoded once, for all
        lost = recovery(work, options.kills, options.every)
        cost = saving(work, options.every)
    text = "\n\n".join(
        [
            machine_line(),
            table(["training", "seconds to the next step", "each kill", "steps lost"], lost),
            table(["strategy", "checkpoints", "s a step", "each round", "against none"], cost),
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
