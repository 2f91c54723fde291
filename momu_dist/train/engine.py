"""One network, its optimiser and its gradients behind one contract; the local engine and plain data parallelism.

An engine is called in turn: `backward(loss)` for every micro-batch, then `step(lr)`, which acts only when a whole global
batch has been accumulated (as DeepSpeed does), so that the loop is the same for every engine.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from momu_dist.config.schema import OptimConfig
from momu_dist.train.checkpoint import Checkpoint
from momu_dist.train.collective import rank, world_size


@dataclass(frozen=True)
class EngineOptions:
    """What every engine derives its settings from; one home for clipping, accumulation and precision."""

    optim: OptimConfig
    micro_batch: int
    accumulation: int
    bf16: bool


class Engine(Protocol):
    """One network in training. `module` is what the loss calls; gradients are synchronised through it."""

    module: nn.Module
    sharded: bool
    """Whether `local_parameters` are this rank's part only (ZeRO-3)."""

    def computing(self) -> AbstractContextManager[object]:
        """The context in which the forward pass and the loss of a micro-batch run (autocast, gradient sync)."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's mean loss."""

    def step(self, lr: float) -> float | None:
        """Clip and step when the global batch is complete; return the gradient norm then, else None.

        A norm that is not finite is returned for the caller to refuse; nothing of it may be stored.
        """

    def local_parameters(self) -> dict[str, Tensor]:
        """Return this rank's fp32 parameters by name (under ZeRO-3: its shards), detached."""

    def gather(self, local: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the full state dict on the CPU with parameters taken from `local`. Every rank must call it."""

    def localise(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this rank's part of each of `whole`, a state dict's parameters; the inverse of `gather`."""

    def snapshot(self) -> dict[str, memoryview]:
        """Return what resuming needs of this rank, as files by path: a copy, which later steps do not touch.

        Every rank must call it.
        """

    def load(self, checkpoint: Checkpoint) -> None:
        """Read what `snapshot` returned, also of another number of workers. Every rank must call it."""


EngineFactory = Callable[[str, nn.Module, EngineOptions], Engine]


def saved(state: Any) -> memoryview:
    """Return what `torch.save` writes of `state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


class LocalEngine:
    """A plain module and AdamW. With more than one worker its gradients are averaged by one all-reduce a step.

    That makes it data parallel without hooks, which is what the discriminator of a GAN needs beside any other engine.
    """

    sharded = False

    def __init__(self, name: str, net: nn.Module, options: EngineOptions) -> None:
        self.name = name
        self.net = net
        self.module: nn.Module = net
        self.options = options
        self.optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=options.optim.lr,
            betas=options.optim.betas,
            weight_decay=options.optim.weight_decay,
        )
        self._accumulated = 0

    def computing(self) -> AbstractContextManager[object]:
        device = next(self.net.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16) if self.options.bf16 else nullcontext()

    def backward(self, loss: Tensor) -> None:
        (loss / self.options.accumulation).backward()
        self._accumulated += 1

    def step(self, lr: float) -> float | None:
        if self._accumulated < self.options.accumulation:
            return None
        self._accumulated = 0
        self._average_gradients()
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.options.optim.clip_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            return norm  # no step: the caller refuses it, with the weights as they were
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _average_gradients(self) -> None:
        if world_size() == 1:
            return
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def local_parameters(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.net.named_parameters()}

    def gather(self, local: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = {name: value.detach() for name, value in self.net.state_dict().items()}
        return {name: local.get(name, value).to("cpu", copy=True) for name, value in state.items()}

    def localise(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: whole[name] for name, _ in self.net.named_parameters()}

    def snapshot(self) -> dict[str, memoryview]:
        if (
            rank() != 0
        ):  # all have the same, but for a batch norm's running statistics, which training does not read
            return {}
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {f"{self.name}.pt": saved(state)}

    def load(self, checkpoint: Checkpoint) -> None:
        state = torch.load(checkpoint.folder / f"{self.name}.pt", map_location="cpu", weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


class DdpEngine(LocalEngine):
    """DistributedDataParallel: gradients are averaged while backward runs."""

    def __init__(self, name: str, net: nn.Module, options: EngineOptions) -> None:
        super().__init__(name, net, options)
        self.module = self.ddp = DistributedDataParallel(net)

    @contextmanager
    def computing(self) -> Iterator[None]:
        # DDP reads in forward whether backward will synchronise: only the last micro-batch of a global batch does.
        last = self._accumulated + 1 == self.options.accumulation
        with super().computing(), nullcontext() if last else self.ddp.no_sync():
            yield

    def _average_gradients(self) -> None:
        """DDP has averaged them."""
