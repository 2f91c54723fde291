"""The numbers of the steps as a Ray Data source. Ray itself is not started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from momu_dist.data.ray_pipeline import STEPS_PER_BLOCK, Steps, shared_batch


@pytest.mark.parametrize(("first", "total"), [(0, 4), (0, 16), (5, 30), (29, 30)])
def test_the_steps_that_remain_in_order_and_in_small_blocks(first: int, total: int) -> None:
    blocks = [block for task in Steps(first, total).get_read_tasks(1) for block in task()]
    assert [step for block in blocks for step in block["id"].to_pylist()] == list(range(first, total))
    assert all(block.num_rows == STEPS_PER_BLOCK for block in blocks[:-1])


def test_a_finished_run_still_gives_one_step() -> None:
    """Ray Data would take a dataset of no rows for an error."""
    (task,) = Steps(30, 30).get_read_tasks(1)
    assert [block["id"].to_pylist() for block in task()] == [[30]]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("momu_dist.data.feed", {"torch", "ray", "pandas", "librosa", "scipy", "mlflow"}),
        ("momu_dist.train.ray_controller", {"torch", "librosa", "scipy", "mlflow", "matplotlib"}),
        ("momu_dist.train.run", {"ray", "deepspeed", "librosa", "scipy", "mlflow", "matplotlib"}),
        ("momu_dist.train.worker", {"deepspeed", "librosa", "scipy", "mlflow", "matplotlib"}),
    ],
)
def test_a_process_of_a_training_imports_only_what_it_needs(module: str, unwanted: set[str]) -> None:
    """Every attempt starts eight processes anew, and a library that none of them needs costs each its seconds."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not unwanted & set(loaded.split())


@pytest.mark.parametrize(
    ("units", "workers", "batch"),
    [(1, 4, 1), (8, 2, 1), (13, 2, 2), (13, 1, 4), (128, 2, 16), (10_000, 2, 16)],
)
def test_few_units_are_shared_by_all_workers(units: int, workers: int, batch: int) -> None:
    assert shared_batch(units, 16, workers) == batch
