"""One SLURM cluster for all tests of this folder, which are left out where none can be started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, missing

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster of two nodes; the checkout, Python's environment and pytest's folders are on all of them."""
    if lacking := missing():
        pytest.skip(lacking)
    shared = [ROOT, Path(sys.prefix), Path(sys.base_prefix), tmp_path_factory.getbasetemp()]
    with Lab(tmp_path_factory.mktemp("lab"), shared) as cluster:
        yield cluster
