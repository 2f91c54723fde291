"""What tests of several layers share: a small prepared set, small run settings, and one trained chain of runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from momu_dist.config.load import load_config
from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources import make_source
from momu_dist.train.run import train

# Of the shell: runs would be tracked there, and jobs be those of that site.
for _variable in ("MLFLOW_TRACKING_URI", "MOMU_CLUSTER"):
    os.environ.pop(_variable, None)

CONFIGS = Path(__file__).parents[1] / "configs"
STAGE_ORDER = ("music_vae", "motion_vae", "dit_m2a", "dit_a2m")

_VAE = ("model.ch=32", "model.ch_mult=[1, 1]", "model.num_res_blocks=1", "model.attn_layers=[]")
_DIT = ("model.hidden_size=32", "model.context_dim=32", "model.depth=1", "model.ff_mult=1")
_OF_STAGE = {
    # The second of two steps is adversarial.
    "music_vae": (*_VAE, "loss.gan_start=0.5", "loss.disc_ndf=4"),
    "motion_vae": (*_VAE, "loss.contrast.clip_latents=[8, 16]"),
    "dit_m2a": _DIT,
    "dit_a2m": _DIT,
}

TinyOverrides = Callable[..., list[str]]
TinyConfig = Callable[..., RunConfig]


def tiny_overrides_of(stage: str, out: Path, data: Path, runs: Path | None = None) -> list[str]:
    """Command line values that make the demo's run of `stage` a matter of seconds on one process."""
    inputs = {"music_vae": (), "motion_vae": ("music_vae",)}.get(stage, ("music_vae", "motion_vae"))
    return [
        f"out={out}",
        f"data.root={data}",
        "data.length_s=[2.048, 2.048]",
        "train.strategy=local",
        "train.workers=1",
        "train.device=cpu",
        "train.max_steps=2",
        "train.global_batch=4",
        "train.log_every=1",
        "train.checkpoint_every=1",
        "tracking.uri=none",
        *(f"inputs.{name}={(runs or out) / name}" for name in inputs),
        *_OF_STAGE[stage],
    ]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve synthetic clips of 3 s in several shards and row groups. Copy it before changing anything in it."""
    root = tmp_path_factory.mktemp("prepared")
    source = make_source("synthetic", n_clips=12, clip_s=3.0)
    options = PrepareOptions(fractions=(0.6, 0.25, 0.15), row_group_clips=2, shard_mb=0.6)
    return prepare(source, root, options, progress=False)


@pytest.fixture(scope="session")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Sixteen training clips in row groups of two, one of 92 frames and one of 62. Copy it before changing anything in it."""
    source = make_source("synthetic", n_clips=10, clip_s=2.5)
    options = PrepareOptions(fractions=(0.8, 0.1, 0.1), row_group_clips=2, window_s=1.5)
    return prepare(source, tmp_path_factory.mktemp("unlike"), options, progress=False)


@pytest.fixture(scope="session")
def tiny_overrides() -> TinyOverrides:
    """(stage, out, data root, folder of input runs or None) -> overrides of the demo's YAML of that stage."""
    return tiny_overrides_of


@pytest.fixture(scope="session")
def tiny_config() -> TinyConfig:
    """(stage, out, data root, folder of input runs or None, further overrides) -> a small run."""

    def make(
        stage: str, out: Path, data: Path, runs: Path | None = None, more: tuple[str, ...] = ()
    ) -> RunConfig:
        overrides = [*tiny_overrides_of(stage, out, data, runs), *more]
        return load_config(CONFIGS / "demo" / f"{stage}.yaml", overrides)

    return make


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory, prepared: Manifest, tiny_config: TinyConfig) -> Path:
    """A folder with finished runs of all four stages, two steps each. Copy what you want to change."""
    out = tmp_path_factory.mktemp("runs")
    for stage in STAGE_ORDER:
        train(tiny_config(stage, out, prepared.root))
    return out
