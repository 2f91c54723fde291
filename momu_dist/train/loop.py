"""The training loop: one for every stage and engine. Losses are in the tasks, gradients in the engines."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from momu_dist.config.schema import RunConfig
from momu_dist.core.seeds import seed_of
from momu_dist.core.tasks.base import Batch, Row, Task
from momu_dist.errors import CheckpointError, TrainingError
from momu_dist.train.checkpoint import CheckpointStore
from momu_dist.train.ema import Ema
from momu_dist.train.engine import Engine
from momu_dist.train.schedule import learning_rate

Weights = dict[str, Tensor]


class Feed(Protocol):
    """This worker's samples. `plan_fingerprint` identifies the global order."""

    plan_fingerprint: str

    def steps(self, first: int, total: int) -> Iterator[Sequence[Row]]:
        """Yield this worker's rows of global batches first .. total-1; each row has clip_id and epoch."""

    def validation(self) -> Sequence[Row]:
        """Return this worker's share of the validation clips."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls on rank 0. Weights are the averaged ones where the run has an average.

    An export also gets the validation values of its step, as they are logged; none where the step was not validated.
    """

    log: Callable[[int, dict[str, float]], None]
    export: Callable[[int, Weights, dict[str, float]], None]
    sample: Callable[[int, Weights], None]


class Trainer:
    """Runs one stage from its newest checkpoint to its last step."""

    def __init__(
        self, config: RunConfig, task: Task, feed: Feed, engines: dict[str, Engine], store: CheckpointStore, hooks: Hooks,
        total_steps: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.config = config
        self.task = task
        self.feed = feed
        self.engines = engines
        self.networks = {name: engine.module for name, engine in engines.items()}
        self.main = next(iter(engines.values()))
        self.store = store
        self.hooks = hooks
        self.total_steps = total_steps
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        decay = config.train.ema_decay
        self.ema = None if decay is None else Ema(self.main.local_parameters(), decay)
        self._meter = Meter()

    def run(self) -> None:
        """Train to the end. A loss that is not finite raises TrainingError on every rank, before the step."""
        train = self.config.train
        first = self._restore()
        if first == 0:
            self._validate(0)
        done = first
        waiting = time.perf_counter()
        for step, rows in enumerate(self.feed.steps(first, self.total_steps), start=first):
            self._meter.wait(time.perf_counter() - waiting)
            self._train_step(step, rows)
            done = step + 1
            last = done == self.total_steps
            if done % train.log_every == 0 or last:
                self._log(done, self._meter.flush(self.device))
            # At every checkpoint too: an export without a validation value could not become the best one.
            due = done % train.validate_every == 0 or done % train.checkpoint_every == 0 or last
            validated = self._validate(done) if due else {}
            if done % train.checkpoint_every == 0 or last:
                self._save(done, validated)
            asked = train.sample_every is not None and done % train.sample_every == 0
            if train.previews and (last or asked):
                self._sample(done)
            waiting = time.perf_counter()
        assert done == self.total_steps, f"the data ended at step {done} of {self.total_steps}"

    def _train_step(self, step: int, rows: Sequence[Row]) -> None:
        config = self.config
        micro = config.train.micro_batch or len(rows)
        lr = learning_rate(config.optim, step, self.total_steps)
        for start in range(0, len(rows), micro):
            batch = self._batch(rows[start : start + micro])
            phases = self.task.phases(self.networks, batch, step / self.total_steps)
            while True:
                with self.main.computing():
                    phase = next(phases, None)
                if phase is None:
                    break
                self._refuse_non_finite(step, "loss", phase.total, batch)
                engine = self.engines[phase.network]
                engine.backward(phase.total)
                norm = engine.step(lr)
                self._meter.add(phase.parts)
                if norm is not None:
                    self._refuse_non_finite(step, "gradient", torch.tensor(norm, device=self.device), batch)
                    self._meter.add({f"{phase.network}_grad_norm": torch.tensor(norm)})
        if self.ema is not None:
            self.ema.update(self.main.local_parameters())
        self._meter.count(step, lr, len(rows) * self._world_size())

    def _batch(self, rows: Sequence[Row]) -> Batch:
        seeds = [seed_of(self.config.seed, int(row["epoch"]), str(row["clip_id"])) for row in rows]
        return self.task.collate(rows, seeds).to(self.device)

    def _refuse_non_finite(self, step: int, what: str, value: Tensor, batch: Batch) -> None:
        """Raise on every rank if `value` is not finite on any, before anything of this step is stored."""
        value = value.detach()
        bad = (~torch.isfinite(value)).float()
        if self._world_size() > 1:
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        if not bad.item():
            return
        named: list[Any] = [(float(value), batch.clip_ids)]
        if self._world_size() > 1:
            named = [None] * self._world_size()
            dist.all_gather_object(named, (float(value), batch.clip_ids))
        guilty = [clip for found, clips in named if not math.isfinite(found) for clip in clips]
        newest = self.store.latest()
        raise TrainingError(
            f"the {what} of step {step} is not finite; the step was not taken. Clips of that batch: {', '.join(guilty)}. "
            f"Last good checkpoint: {newest or 'none yet'}. Look at these clips, or lower optim.lr."
        )

    @torch.no_grad()
    def _validate(self, done: int) -> dict[str, float]:
        """Log and return the means over all validation clips; no clips give none."""
        rows = self.feed.validation()
        for network in self.networks.values():
            network.eval()
        sums: dict[str, list[float]] = {}
        size = self.config.train.micro_batch or self.config.train.global_batch // self._world_size()
        for start in range(0, len(rows), size):
            batch = self._batch(rows[start : start + size])
            with self.main.computing():
                values = self.task.validate(self.networks, batch)
            for name, value in values.items():
                entry = sums.setdefault(name, [0.0, 0.0])
                finite = value[~torch.isnan(value)]
                entry[0] += float(finite.sum())
                entry[1] += len(finite)
        for network in self.networks.values():
            network.train()
        if sums:
            table = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)
            if self._world_size() > 1:
                dist.all_reduce(table)
            means = {
                f"val/{name}": float(s / n) for name, (s, n) in zip(sums, table.tolist(), strict=True) if n
            }
            self._log(done, means)
            return means
        return {}

    def _log(self, done: int, metrics: dict[str, float]) -> None:
        if self.rank == 0:
            self.hooks.log(done, metrics)

    def _weights(self) -> Weights:
        return self.main.gather(self.ema.shadow if self.ema else self.main.local_parameters())

    def _sample(self, done: int) -> None:
        weights = self._weights()
        if self.rank == 0:
            self.hooks.sample(done, weights)

    def _save(self, done: int, validated: dict[str, float]) -> None:
        weights = self._weights()
        if self.rank == 0:
            self.hooks.export(done, weights, validated)
        state = {
            "step": done,
            "plan": self.feed.plan_fingerprint,
            "world_size": self._world_size(),
            "strategy": self.config.train.strategy,
        }
        self.store.save(done, state, self._write_parts)

    def _write_parts(self, folder: Path) -> None:
        for engine in self.engines.values():
            engine.save(folder)
        if self.ema is not None and (self.rank == 0 or self.main.sharded):
            torch.save(self.ema.state_dict(), folder / self._ema_file())

    def _ema_file(self) -> str:
        return f"ema-{self.rank if self.main.sharded else 0}.pt"

    def _restore(self) -> int:
        newest = self.store.latest()
        if newest is None:
            return 0
        state = self.store.state(newest)
        here = (self.config.train.strategy, self._world_size())
        there = (state["strategy"], state["world_size"])
        if here != there:
            raise CheckpointError(
                f"{newest} was written by {there[0]} with {there[1]} workers, this run is {here[0]} with {here[1]}; "
                "continue as it was, or start a new run with inputs.init_from."
            )
        if state["plan"] != self.feed.plan_fingerprint:
            raise CheckpointError(
                f"{newest} was written with another order of samples (data, seed or train.global_batch changed); "
                "continue with the same values, or start a new run with inputs.init_from."
            )
        if int(state["step"]) > self.total_steps:
            raise CheckpointError(
                f"{newest} has done {state['step']} steps, this run ends at {self.total_steps}; raise train.max_steps or "
                "train.epochs, or choose another name=..."
            )
        self.store.verify(newest)
        try:
            for engine in self.engines.values():
                engine.load(newest)
            if self.ema is not None:
                path = newest / self._ema_file()
                self.ema.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{newest} cannot be loaded ({type(error).__name__}: {error}); delete that folder to go on from the one before."
            ) from error
        return int(state["step"])

    def _world_size(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1


class Meter:
    """Means of what the phases report and of where the time goes, between two logs."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._samples = 0
        self._waited_s = 0.0
        self._since = time.perf_counter()
        self._facts: dict[str, float] = {}

    def wait(self, seconds: float) -> None:
        """Count time that the loop waited for data."""
        self._waited_s += seconds

    def add(self, parts: dict[str, Tensor]) -> None:
        """Count one micro-batch's values; nothing is read back from the device yet."""
        for name, value in parts.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def count(self, step: int, lr: float, samples: int) -> None:
        """Count one step of `samples` samples over all workers."""
        self._samples += samples
        self._facts = {"lr": lr}

    def flush(self, device: torch.device) -> dict[str, float]:
        """Return the means over all workers since the last call and start anew. Every rank must call it."""
        names = list(self._sums)
        means = torch.stack([self._sums[name].to(device) / self._counts[name] for name in names])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(means)
            means /= dist.get_world_size()
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        metrics = dict(zip(names, means.tolist(), strict=True))
        metrics |= self._facts
        metrics |= {"samples_per_s": self._samples / elapsed, "data_wait": self._waited_s / elapsed}
        self._reset()
        return metrics
