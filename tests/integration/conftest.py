"""A field for runs that are to be broken, and trainings in processes of their own; see faults.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from faults import Drill, Field
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources import make_source
from momu_dist.train.run import train


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    root = tmp_path_factory.mktemp("field")
    source = make_source("synthetic", n_clips=26, clip_s=3.0)
    options = PrepareOptions(shard_mb=1.0, row_group_clips=4)
    made = Field(root, prepare(source, root / "data", options, progress=False))
    for stage in ("music_vae", "motion_vae"):
        train(made.config(stage, "local", stage, f"out={root / 'inputs'}", "train.max_steps=3"))
    return made


@pytest.fixture
def drill(field: Field) -> Iterator[Callable[..., Drill]]:
    """(stage, strategy, name, overrides) -> a training that was started; ended with the test."""
    started: list[Drill] = []

    def make(stage: str, strategy: str, name: str, *more: str) -> Drill:
        started.append(Drill(field.command(stage, strategy, name, *more), field.root / "runs" / name).start())
        return started[-1]

    yield make
    for one in started:
        one.close()
