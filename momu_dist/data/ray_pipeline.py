"""Ray Data: the only module that imports ray.data. The caller has started Ray."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from momu_dist.data.feed import FeedSpec, PlanReader
from momu_dist.errors import DataError

# ----------------------------------------------------------------------------------------------------
# preparing


def map_units(
    units: list[dict[str, Any]],
    fn: Callable[[dict[str, Any]], dict[str, Any]],
    num_cpus: float = 1.0,
    label: str = "units",
    num_gpus: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """fn(unit) for each unit, each a task of `num_cpus` logical CPUs and `num_gpus` GPUs, as they finish (in no promised order).

    Units and results are JSON values; `fn` is pickled with what it holds. No units give no results. Raises
    DataError if Ray has not been started; an exception of `fn` ends the job as Ray's error. `label` names
    the operator in Ray's displays.
    """
    if not units:
        return
    if not ray.is_initialized():
        raise DataError(
            f"{label}: Ray is not running in this process; call ray.init() first, or prepare without Ray."
        )

    def one(item: dict[str, Any]) -> dict[str, Any]:
        # Imported here: the readers of a training import this module too and need no torch.
        import torch

        # Ray lets a task start a thread for each of its logical CPUs; of those an own session counts more than there are.
        torch.set_num_threads(1)
        return {"result": json.dumps(fn(json.loads(item["unit"])))}

    one.__name__ = label
    _be_quiet()
    items = [{"unit": json.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        one, num_cpus=num_cpus, num_gpus=num_gpus or None
    )
    for row in dataset.iter_rows():
        yield json.loads(row["result"])


_CALLS_EACH = 4
"""Calls of a worker, where there are few units: results are seen after each, and none waits long for another's last."""


def map_batches(
    units: list[dict[str, Any]],
    make: Callable[[], Callable[[list[dict[str, Any]]], list[dict[str, Any]]]],
    batch: int,
    workers: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Results for `units`, at most `batch` at a time, by `workers` processes that each call `make()` once, as they finish.

    Units and results are JSON values. What `make()` returns gets a list of units and gives a list of results. For work
    that stands on something large, such as trained networks; raises as `map_units`.
    """
    if not units:
        return
    if not ray.is_initialized():
        raise DataError("Ray is not running in this process; call ray.init() first.")

    class Worker:
        def __init__(self) -> None:
            self.work = make()

        def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
            results = self.work([json.loads(unit) for unit in rows["unit"]])
            return {"result": [json.dumps(result) for result in results]}

    _be_quiet()
    items = [{"unit": json.dumps(unit)} for unit in units]
    batch = shared_batch(len(items), batch, workers)
    blocks = -(-len(items) // batch)
    dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        Worker,
        batch_size=batch,
        # One at a time each: a worker that is up first would take what another could do.
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks), max_tasks_in_flight_per_actor=1),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
    )
    for row in dataset.iter_rows():
        yield json.loads(row["result"])


def shared_batch(units: int, most: int, workers: int) -> int:
    """How many of `units` one call is to get, so that each worker has several calls: at least 1, at most `most`."""
    return max(1, min(most, -(-units // (_CALLS_EACH * workers))))


def _be_quiet() -> None:
    """Keep Ray Data's plans and bars off the terminal: the driver counts clips and steps, which says more than blocks."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


# ---------------------------------------------------------------------------------------------------- training

READER_CPUS = 0.5
"""Logical CPUs of one worker's reader: it decodes parquet in bursts, beside workers that hold whole CPUs."""

STEPS_PER_BLOCK = 8
PAUSE_S = 0.02


class Steps(ray.data.Datasource):
    """The numbers of the steps first .. total - 1 as column `id`, at least one, STEPS_PER_BLOCK to a block.

    What ray.data.range gives, but for the CPUs: its read tasks ask for a whole one, so Ray Data cannot run them inside
    the readers and starts one more process for them.
    """

    def __init__(self, first: int, total: int) -> None:
        self.first = first
        self.total = max(first + 1, total)

    def estimate_inmemory_data_size(self) -> int:
        return 8 * (self.total - self.first)

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        """Return a task a block; of how many Ray would like, nothing depends on it."""
        tasks = []
        for begin in range(self.first, self.total, STEPS_PER_BLOCK):
            ids = list(range(begin, min(begin + STEPS_PER_BLOCK, self.total)))
            metadata = BlockMetadata(
                num_rows=len(ids), size_bytes=8 * len(ids), input_files=None, exec_stats=None
            )
            tasks.append(ReadTask(partial(_block, ids), metadata, pa.schema({"id": pa.int64()})))
        return tasks


def _block(ids: list[int]) -> list[pa.Table]:
    return [pa.table({"id": pa.array(ids, pa.int64())})]


def step_dataset(first: int, total: int) -> ray.data.Dataset:
    """Return the numbers of the steps that remain, as a dataset: `worker_stream` turns them into samples."""
    _be_quiet()
    blocks = -(-max(1, total - first) // STEPS_PER_BLOCK)
    return ray.data.read_datasource(Steps(first, total), override_num_blocks=blocks, num_cpus=READER_CPUS)


class Unhurried(ExecutionCallback):
    """Lets the loop that runs a stream rest between its turns.

    It shares a process with the training. While it waits for the training to take what has been read, it turns without a
    pause (Ray 2.60) and takes the interpreter away from it: on a cluster, where each turn also sets metrics, steps of
    0.2 s took 1 s.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(PAUSE_S)


def worker_stream(
    steps: ray.data.Dataset, spec: FeedSpec, rank: int, world_size: int
) -> ray.data.DataIterator:
    """Return worker `rank`'s own stream of `steps`: in order, one block a step, exactly the rows that the plan gives it.

    Ray's own splitting hands blocks to whichever worker asks first, so what a worker sees would depend on timing.
    """
    rows = steps.map_batches(
        PlanReader,
        fn_constructor_args=(spec, rank, world_size),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=READER_CPUS,
    )
    rows.context.execution_options.preserve_order = True
    rows.context.custom_execution_callback_classes = [
        Unhurried
    ]  # the context is that of `steps`, shared by all workers
    return rows.iterator()
