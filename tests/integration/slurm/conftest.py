"""One SLURM cluster for all tests of this folder, which are left out where none can be started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, missing

ROOT = Path(__file__).parents[3]
GRACEFUL = "PartitionName=graceful PriorityTier=10 GraceTime=120"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster of two nodes; the checkout, Python's environment and pytest's folders are on all of them.

    Each declares two GPUs, for jobs that ask, which no driver knows. Jobs of the partition `graceful` are preempted as those
    of `main` are, but with a time of grace.
    """
    if lacking := missing():
        pytest.skip(lacking)
    shared = [ROOT, Path(sys.prefix), Path(sys.base_prefix), tmp_path_factory.getbasetemp()]
    with Lab(tmp_path_factory.mktemp("lab"), shared, gpus=2, extra=[GRACEFUL]) as cluster:
        yield cluster
