"""Adaptive GAN weight and R1 under data parallelism: two processes compute what one worker computes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from momu_dist.config.load import config_from_dict, load_config, resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.tasks.music_vae import MusicVaeTask
from momu_dist.data.feed import FeedSpec, LocalFeed
from momu_dist.data.manifest import Manifest
from momu_dist.train.build import feed_spec
from momu_dist.train.run import train
from momu_dist.train.worker import run_worker

pytestmark = [pytest.mark.integration, pytest.mark.parity]

DEMO = Path(__file__).parents[2] / "configs" / "demo" / "music_vae.yaml"
STEPS, START = 8, 3
# Not clipped, for the reason in test_parity: clipping factors differ in their last digit.
SETTINGS = (
    *("model.ch=32", "model.ch_mult=[1, 1]", "model.num_res_blocks=1", "model.attn_layers=[]"),
    *("loss.gan_weight_mode=adaptive", "loss.r1_weight=3.0", "loss.disc_factor=2.0", "loss.disc_ndf=4"),
    *(f"loss.gan_start={START / STEPS}", f"train.max_steps={STEPS}", "train.global_batch=4", "train.log_every=1"),
    *("train.precision=fp32", "train.threads=1", "train.ema_decay=null", "train.device=cpu"),
    "train.previews=false",
    *("data.length_s=[0.6, 1.0]", "data.validation_clips=2", "tracking.uri=none"),
    *("optim.clip_norm=1.0e9", "optim.warmup_steps=0"),
)  # fmt: skip


def make_config(out: Path, data: Manifest, *more: str) -> RunConfig:
    return load_config(DEMO, [f"out={out}", f"data.root={data.root}", *SETTINGS, *more])


def rank_main(rank: int, tree: dict[str, Any], spec: FeedSpec, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    run_worker(config_from_dict(tree, where="test"), spec, lambda s: LocalFeed(s, rank, 2), STEPS)
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_ddp(config: RunConfig, data: Manifest) -> Path:
    run = Path(config.out) / config.name
    run.mkdir(parents=True)
    spec = feed_spec(config, data.root, MusicVaeTask.columns)
    mp.spawn(rank_main, (resolved_dict(config), spec, free_port()), nprocs=2)
    return run


def logged(run: Path, name: str) -> list[float]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if name in entry]


@pytest.mark.parametrize(("micro_batch", "norm"), [(1, "group"), (2, "batch")])
def test_two_processes_compute_what_one_worker_computes(
    prepared: Manifest, tmp_path: Path, micro_batch: int, norm: str
) -> None:
    """With the same micro-batches: the weight belongs to the micro-batch, whichever worker takes it.

    Micro-batches of 1 are accumulated on each worker too, where DDP must not synchronise before the last one. There
    one worker adds four gradients in a row and two add two pairs, so the weights part by rounding (see test_parity).
    """
    more = (f"train.micro_batch={micro_batch}", f"loss.disc_norm={norm}")
    alone = train(
        make_config(tmp_path, prepared, *more, "name=alone", "train.workers=1", "train.strategy=local")
    )
    ddp = make_config(tmp_path, prepared, *more, "name=ddp", "train.strategy=ddp", "train.workers=2")
    together = run_ddp(ddp, prepared)
    for name, n in {"total": STEPS, "r1": STEPS, "gan": STEPS - START, "gan_weight": STEPS - START}.items():
        ours, theirs = logged(alone, name), logged(together, name)
        assert len(ours) == n
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5), name
    if micro_batch == 2:
        weights = [load_file(run / "export" / "model.safetensors") for run in (alone, together)]
        furthest = max(float((value - weights[1][name]).abs().max()) for name, value in weights[0].items())
        assert furthest <= 1e-4


def test_other_micro_batches_give_another_weight(prepared: Manifest, tmp_path: Path) -> None:
    """What the documentation says of the adaptive weight; a fixed one knows no micro-batches."""
    found = []
    for micro_batch in (1, 4):
        config = make_config(
            tmp_path,
            prepared,
            *("train.workers=1", "train.strategy=local"),
            *(f"name=of-{micro_batch}", f"train.micro_batch={micro_batch}"),
        )
        found.append(logged(train(config), "gan_weight")[0])
    assert abs(found[0] / found[1] - 1) > 1e-3
