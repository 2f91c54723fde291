"""Ray Data: the only module that imports ray.data. The caller has started Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.data

from momu_dist.errors import DataError

# ----------------------------------------------------------------------------------------------------
# preparing


def map_units(
    units: list[dict[str, Any]],
    fn: Callable[[dict[str, Any]], dict[str, Any]],
    num_cpus: float = 1.0,
    label: str = "units",
) -> Iterator[dict[str, Any]]:
    """fn(unit) for each unit, each a task of `num_cpus` logical CPUs, as they finish (in no promised order).

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
        return {"result": json.dumps(fn(json.loads(item["unit"])))}

    one.__name__ = label
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the driver counts clips, which says more than Ray's blocks
    items = [{"unit": json.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(one, num_cpus=num_cpus)
    for row in dataset.iter_rows():
        yield json.loads(row["result"])
