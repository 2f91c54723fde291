"""What Ray Train's controller asks: which steps remain, who reads what, how many workers. A process of its own without torch,
so nothing here imports any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from momu_dist.data.feed import FeedSpec
from momu_dist.data.ray_pipeline import step_dataset, worker_stream
from momu_dist.train.checkpoint import newest_checkpoint


@dataclass(frozen=True)
class RemainingSteps:
    """Called whenever the workers start: only the steps after the newest whole checkpoint are read."""

    checkpoints: Path
    total_steps: int

    def __call__(self) -> Any:
        newest = newest_checkpoint(self.checkpoints)
        return step_dataset(newest.step if newest else 0, self.total_steps)


class PlannedIngest(ray.train.DataConfig):
    """Gives every worker exactly its rows of every step, whatever the number of workers."""

    def __init__(self, spec: FeedSpec) -> None:
        super().__init__()
        self.spec = spec

    def configure(
        self, datasets: dict[str, Any], world_size: int, *_: object, **__: object
    ) -> list[dict[str, Any]]:
        """Return one iterator a worker."""
        return [
            {"train": worker_stream(datasets["train"], self.spec, rank, world_size)}
            for rank in range(world_size)
        ]


class WholeShares(ElasticScalingPolicy):
    """Takes the largest of `sizes` that there is room for: numbers of workers that can share the global batch.

    `cpus` is what a worker needs together with its reader, for which Ray reserves nothing.
    """

    def __init__(self, scaling: ray.train.ScalingConfig, sizes: Sequence[int], cpus: float) -> None:
        super().__init__(scaling)
        self.sizes = tuple(sizes)
        self.cpus = cpus

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        found = super()._count_possible_workers(reserved_resources)
        found = min(found, int(ray.cluster_resources().get("CPU", 0.0) // self.cpus))
        return max((size for size in self.sizes if size <= found), default=0)
