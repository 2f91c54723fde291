"""What tests of faults share: runs as a user starts them, processes that are killed, and what must be the same after."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from momu_dist.config.load import load_config
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.data.feed import FeedSpec, LocalFeed
from momu_dist.data.latents import latent_fingerprint
from momu_dist.data.manifest import Manifest
from momu_dist.inference.export import find_export
from momu_dist.train.build import feed_spec, required_exports
from momu_dist.train.checkpoint import newest_checkpoint
from momu_dist.train.run import resolved_inputs
from momu_dist.train.seen import recorded_samples

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"
WAIT_S = 240

_VAE = ("model.ch=32", "model.ch_mult=[1, 1]", "model.num_res_blocks=1", "model.attn_layers=[]")
_DIT = ("model.hidden_size=32", "model.context_dim=32", "model.depth=1", "model.ff_mult=1")
_NETS = {
    "music_vae": (*_VAE, "loss.disc_ndf=4", "loss.gan_start=0.3"),
    "motion_vae": (*_VAE, "loss.contrast.clip_latents=[8, 16]"),
    "dit_a2m": _DIT,
}


@dataclass(frozen=True)
class Field:
    """Prepared data and inputs for small runs that are to be broken."""

    root: Path
    data: Manifest

    def overrides(self, stage: str, strategy: str, name: str, *more: str) -> list[str]:
        inputs = {"music_vae": (), "motion_vae": ("music_vae",)}.get(stage, ("music_vae", "motion_vae"))
        return [
            f"out={self.root / 'runs'}",
            f"name={name}",
            f"data.root={self.data.root}",
            "data.length_s=[1.0, 2.5]",  # clips of unlike length in every batch
            f"train.strategy={strategy}",
            f"train.workers={1 if strategy == 'local' else 2}",
            "train.device=cpu",
            "train.threads=1",
            "train.global_batch=4",
            "train.micro_batch=2",
            "train.log_every=1",
            "train.validate_every=1000",
            "train.max_failures=10",
            "train.record_samples=true",
            "tracking.uri=none",
            "optim.warmup_steps=0",
            *(f"inputs.{name}={self.root / 'inputs' / name}" for name in inputs),
            *_NETS[stage],
            *more,
        ]

    def config(self, stage: str, strategy: str, name: str, *more: str) -> RunConfig:
        return load_config(CONFIGS / f"{stage}.yaml", self.overrides(stage, strategy, name, *more))

    def command(self, stage: str, strategy: str, name: str, *more: str) -> list[str]:
        config = ["--config", str(CONFIGS / f"{stage}.yaml")]
        return [
            sys.executable,
            "-m",
            "momu_dist.train",
            *config,
            *self.overrides(stage, strategy, name, *more),
        ]

    def planned(self, config: RunConfig) -> dict[int, list[tuple[int, str]]]:
        """The samples of each step as the plan has them, read by a feed of one worker."""
        root = self.data.root
        if STAGES[config.stage].reads == "latents":
            exports = required_exports(resolved_inputs(config), self.data)
            weights = {name: export.sha256 for name, export in exports.items()}
            root = root / "latents" / latent_fingerprint(self.data, weights)
        spec: FeedSpec = feed_spec(config, root, ())
        steps = LocalFeed(spec).steps(0, config.train.max_steps or 0)
        return {step: [(row["epoch"], row["clip_id"]) for row in rows] for step, rows in enumerate(steps)}


def steps_logged(run: Path) -> list[int]:
    """Steps in metrics.jsonl with a training loss, in the order of the file."""
    return [step for step, _ in losses(run)]


def losses(run: Path) -> list[tuple[int, float]]:
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [(entry["step"], entry["total"]) for line in lines if "total" in (entry := json.loads(line))]


def training_processes(root: int) -> list[psutil.Process]:
    """The training workers below process `root`, by rank as they were started."""
    try:
        found = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    workers = []
    for process in found:
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.append(process)
        except psutil.Error:
            continue
    return sorted(workers, key=lambda process: process.pid)


@dataclass(frozen=True)
class Kill:
    """What was killed, and the last step that was logged then."""

    what: str
    wanted: int
    logged: int


class Drill:
    """A training in a process of its own, as a user starts it, on a Ray of its own."""

    def __init__(self, command: Sequence[str], run: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.run = run
        self.env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} if env is None else dict(env)
        self.output = run.parent / f"{run.name}.out"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Drill:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env={**self.env, "OMP_NUM_THREADS": "1"}
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def wait_for(self, reached: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + WAIT_S
        while not reached():
            assert self.process is not None and self.process.poll() is None, (
                f"ended before {what}: {self.text()}"
            )
            assert time.monotonic() < until, f"no {what} within {WAIT_S} s: {self.text()}"
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> int:
        """Wait until `step` is logged; return the last one that is."""
        self.wait_for(lambda: max(steps_logged(self.run), default=-1) >= step, f"step {step}")
        return max(steps_logged(self.run))

    def kill(self, what: str, step: int, rng: random.Random) -> Kill:
        """SIGKILL once `step` is logged; what: `worker`, `worker while saving`, `driver` or `driver at once`.

        A driver is started again once its workers have ended, or at once.
        """
        logged = self.wait_for_step(step)
        if what == "worker while saving":
            self.wait_for(lambda: list((self.run / "checkpoints").glob(".writing-*")), "save")
        if what.startswith("worker"):
            starts = self.starts()
            rng.choice(training_processes(self.pid)).kill()
            self.wait_for(lambda: self.starts() > starts, "new workers")
            return Kill(what, step, logged)
        workers = training_processes(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        if what != "driver at once":
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert not alive, f"still training after the driver's death: {alive}"
        starts = self.starts()
        self.start()
        self.wait_for(lambda: self.starts() > starts, "new workers")
        return Kill(what, step, logged)

    def starts(self) -> int:
        """How often workers have begun or gone on; what they log from then on is new."""
        path = self.run / "events.log"
        lines = path.read_text().splitlines() if path.is_file() else []
        return sum(" begins with " in line or " goes on at step " in line for line in lines)

    def finish(self, expected: int = 0) -> str:
        """Wait for the end; return what was printed."""
        assert self.process is not None
        code = self.process.wait(WAIT_S)
        assert code == expected, f"exit code {code}: {self.text()}"
        return self.text()

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.is_file() else ""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            below = psutil.Process(self.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            psutil.wait_procs(below, timeout=30)


def assert_same_state(run: Path, other: Path) -> None:
    """The newest checkpoints of two runs hold the same bits: weights, moments, averages, discriminator, the export."""
    folders = []
    for path in (run, other):
        newest = newest_checkpoint(path / "checkpoints")
        assert newest is not None
        folders.append(newest.folder)
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*.pt")) for folder in folders]
    assert names[0] == names[1] and names[0]
    for name in names[0]:
        ours, theirs = (
            torch.load(folder / name, map_location="cpu", weights_only=False) for folder in folders
        )
        assert_same(ours, theirs, str(name))
    exports = [(folder / "export" / "model.safetensors").read_bytes() for folder in folders]
    assert exports[0] == exports[1], "the averaged weights differ"
    assert (run / "export" / "model.safetensors").read_bytes() == exports[0], (
        "the run's export is not the newest"
    )
    assert find_export(run / "best").facts["step"] == find_export(other / "best").facts["step"]


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), f"{where} differs"
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in ours.items():
            assert_same(value, theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    elif isinstance(ours, int | float | str | bool | None):
        assert ours == theirs, f"{where}: {ours} and {theirs}"
    else:  # such as DeepSpeed's loss scaler
        assert type(ours) is type(theirs), where
        assert_same(vars(ours), vars(theirs), where)


def assert_every_sample_once(field: Field, config: RunConfig, run: Path) -> None:
    """Each step saw the samples that the plan gives it, and each whole epoch every training clip exactly once."""
    seen, planned = recorded_samples(run / "samples-seen"), field.planned(config)
    assert {step: Counter(samples) for step, samples in seen.items()} == {
        step: Counter(samples) for step, samples in planned.items()
    }
    epochs: dict[int, Counter[str]] = {}
    for samples in seen.values():
        for epoch, clip in samples:
            epochs.setdefault(epoch, Counter())[clip] += 1
    table = field.data.clips
    clips = {
        clip
        for clip, split in zip(*(table[n].to_pylist() for n in ("clip_id", "split")), strict=True)
        if split == "train"
    }
    assert all(set(counts) <= clips and max(counts.values()) == 1 for counts in epochs.values())
    assert sum(set(counts) == clips for counts in epochs.values()) >= 2, (
        "the run should see more than two epochs"
    )
