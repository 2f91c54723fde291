"""One worker alone, two under DDP and two under ZeRO-1, 2, 3 compute the same training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor, nn

from momu_dist.config.load import config_from_dict, load_config, resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES, Stage
from momu_dist.core.tasks.base import TaskInputs
from momu_dist.core.tasks.dit import DitMusicToMotion
from momu_dist.data.feed import FeedSpec, LocalFeed
from momu_dist.data.manifest import Manifest
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources import make_source
from momu_dist.train.build import feed_spec
from momu_dist.train.ray_session import ray_session
from momu_dist.train.run import train
from momu_dist.train.worker import run_worker

pytestmark = [pytest.mark.integration, pytest.mark.parity]

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"
STEPS = 20
SHARDED = ("ddp", "zero1", "zero2", "zero3")

# A sum's last digit depends on how it is grouped, and training amplifies it: where an L1 residual is nearly zero its sign
# flips, and Adam divides a gradient that is only rounding by its own size. So one worker takes its batch in the micro-batches
# that two workers take: then the same numbers are added in the same order, and any seed must agree, key biases included.
MICRO_BATCH = 4

SETTINGS = (
    "data.length_s=[1.0, 2.5]",  # clips of unlike length in every batch
    f"train.max_steps={STEPS}",
    "train.global_batch=8",
    f"train.micro_batch={MICRO_BATCH}",
    "train.ema_decay=null",
    "train.log_every=1",
    "train.validate_every=1000",
    "train.checkpoint_every=1000",
    "train.precision=fp32",
    "train.threads=1",
    "train.previews=false",
    "tracking.uri=none",
    "optim.lr=1.0e-3",
    "optim.warmup_steps=0",
    "optim.schedule=constant",
)
NETS = {
    # Not clipped: each strategy sums the gradient's norm in its own order, so the clipping factor differs in its last digit, and
    # an L1 loss over a max-pool is no continuous function's gradient: within 20 steps one flip can part two runs by 1e-2. The
    # transformer below is clipped at every step.
    "motion_vae": (
        "optim.clip_norm=1.0e9",
        "model.ch=64",
        "model.ch_mult=[1, 1]",
        "model.num_res_blocks=1",
        "loss.contrast_weight=1.0",
    ),
    "dit_a2m": ("optim.clip_norm=0.1", "model.hidden_size=64", "model.context_dim=64", "model.depth=2"),
    "music_vae": ("model.ch=32", "model.ch_mult=[1, 1]", "model.num_res_blocks=1", "loss.gan_start=2.0"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    source = make_source("synthetic", n_clips=40, clip_s=3.0)
    options = PrepareOptions(shard_mb=1.0, row_group_clips=4)
    return prepare(source, tmp_path_factory.mktemp("parity") / "data", options, progress=False)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(workers=2):
        yield


@pytest.fixture(scope="module")
def chain(data: Manifest) -> Path:
    """The run folder of the inputs: a music VAE and a motion VAE of a few local steps."""
    out = data.root.parent / "inputs"
    for stage in ("music_vae", "motion_vae"):
        train(make_config(stage, "local", out, data, out, f"name={stage}", "train.max_steps=3"))
    return out


@pytest.fixture(scope="module")
def alone(data: Manifest, chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """stage -> the run of one worker without Ray, trained when it is first asked for."""
    out = tmp_path_factory.mktemp("alone")
    return cache(lambda stage: train(make_config(stage, "local", out, data, chain)))


def make_config(stage: str, strategy: str, out: Path, data: Manifest, inputs: Path, *more: str) -> RunConfig:
    workers = 1 if strategy == "local" else 2
    paths = [f"out={out}", f"data.root={data.root}", f"name={stage}-{strategy}"]
    if stage != "music_vae":
        paths.append(f"inputs.music_vae={inputs / 'music_vae'}")
    if stage.startswith("dit"):
        paths.append(f"inputs.motion_vae={inputs / 'motion_vae'}")
    run = [f"train.strategy={strategy}", f"train.workers={workers}"]
    return load_config(CONFIGS / f"{stage}.yaml", [*paths, *SETTINGS, *NETS[stage], *run, *more])


def losses(run: Path) -> list[float]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry["total"] for entry in entries if "total" in entry]


def clipped(run: Path, config: RunConfig) -> bool:
    """Whether every step's gradient was longer than `optim.clip_norm`."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    norms = [value for entry in entries for name, value in entry.items() if name.endswith("_grad_norm")]
    assert norms
    return min(norms) > config.optim.clip_norm


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "export" / "model.safetensors")


def difference(one: Path, other: Path) -> tuple[float, float]:
    """The largest difference of a step's loss, and of a final weight."""
    loss = max(abs(a - b) for a, b in zip(losses(one), losses(other), strict=True))
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return loss, max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("stage", ["motion_vae", "dit_a2m"])
def test_every_strategy_computes_what_one_worker_computes(
    stage: str, data: Manifest, chain: Path, alone: Callable[[str], Path], ray: None, tmp_path: Path
) -> None:
    one = alone(stage)
    assert len(losses(one)) == STEPS
    assert clipped(one, make_config(stage, "local", tmp_path, data, chain)) == (stage == "dit_a2m")
    assert sum(losses(one)[-3:]) < 0.9 * sum(losses(one)[:3]), "the loss should fall by a tenth"
    for strategy in SHARDED:
        together = train(make_config(stage, strategy, tmp_path, data, chain))
        loss, weight = difference(one, together)
        assert loss <= 1e-5, f"{stage} under {strategy}: losses differ by {loss:.2e}"
        assert weight <= 1e-4, f"{stage} under {strategy}: weights differ by {weight:.2e}"


class HonestTask(DitMusicToMotion):
    """What the negative control is compared with: the same, through the wrapped network."""


class UnwrappedTask(DitMusicToMotion):
    """Calls its own reference to the unwrapped network: gradients are not averaged among the workers."""

    def networks(self) -> dict[str, nn.Module]:
        self.own = super().networks()["dit"]
        return {"dit": self.own}

    def phases(self, networks: Any, batch: Any, progress: float) -> Any:
        return super().phases({"dit": self.own}, batch, progress)


TASKS = {"honest": HonestTask, "unwrapped": UnwrappedTask}


def rank_main(rank: int, kind: str, tree: dict[str, Any], spec: FeedSpec, port: int) -> None:
    """One of two processes under plain DDP, with the given task in place of the catalog's."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    use_task(TASKS[kind])
    config = config_from_dict(tree, where="test")
    run_worker(config, spec, lambda s: LocalFeed(s, rank, 2), STEPS)
    dist.destroy_process_group()


def use_task(task: type[DitMusicToMotion]) -> None:
    def make(model: Any, loss: Any, inputs: TaskInputs) -> DitMusicToMotion:
        return task(model, loss, inputs)

    stage: Stage = STAGES["dit_a2m"]
    STAGES["dit_a2m"] = replace(stage, task=make)


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_task_that_calls_the_unwrapped_network_is_caught(
    data: Manifest, chain: Path, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    one = alone("dit_a2m")
    latents = next((data.root / "latents").iterdir())
    found = {}
    for kind in TASKS:
        config = make_config("dit_a2m", "ddp", tmp_path, data, chain, f"name={kind}")
        spec = feed_spec(config, latents, DitMusicToMotion.columns)
        run = Path(config.out) / kind
        run.mkdir(parents=True)
        mp.spawn(rank_main, (kind, resolved_dict(config), spec, free_port()), nprocs=2)
        found[kind] = difference(one, run)
    assert found["honest"][0] <= 1e-5
    assert found["honest"][1] <= 1e-4
    assert found["unwrapped"][1] > 1e-3, "two workers that do not talk should not end at the same weights"
