"""What workers agree on. On one process without a group every function is the identity."""

from __future__ import annotations

import socket
from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def rank() -> int:
    """This worker's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def worker_name() -> str:
    """This worker as messages name it, such as `rank 1 on node2`."""
    return f"rank {rank()} on {socket.gethostname()}"


def barrier() -> None:
    """Wait for all workers."""
    if world_size() > 1:
        dist.barrier()


def from_rank_0(value: Value) -> Value:
    """Return rank 0's value on every rank; it travels pickled."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: Value) -> list[Value]:
    """Return the values of all ranks, in their order, on every rank; they travel pickled."""
    if world_size() == 1:
        return [value]
    box: list[Value] = [value] * world_size()
    dist.all_gather_object(box, value)
    return box


def largest(value: float, device: torch.device) -> float:
    """Return the largest of the ranks' values on every rank."""
    if world_size() == 1:
        return value
    box = torch.tensor(float(value), device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return float(box)
