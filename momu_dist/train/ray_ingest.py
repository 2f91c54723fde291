"""Who reads what, for Ray Train. The process that answers this needs no torch, so nothing here imports any."""

from __future__ import annotations

from typing import Any

import ray.train

from momu_dist.data.feed import FeedSpec
from momu_dist.data.ray_pipeline import worker_stream


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
