"""The training loop: one for every stage and engine. Losses are in the tasks, gradients in the engines."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.core.seeds import seed_of
from momu_dist.core.tasks.base import Batch, Row, Task
from momu_dist.errors import CheckpointError, Stopped, TrainingError
from momu_dist.train.checkpoint import Checkpoint, check_continues, check_order
from momu_dist.train.collective import barrier, from_all, from_rank_0, largest, rank, worker_name, world_size
from momu_dist.train.ema import Ema
from momu_dist.train.engine import Engine
from momu_dist.train.schedule import learning_rate
from momu_dist.train.store import CheckpointStore

Weights = dict[str, Tensor]


class AgreedEnd(TrainingError):
    """Raised by all workers alike; it names itself the one it comes from, where that is one of them."""


class Feed(Protocol):
    """This worker's samples. `plan_fingerprint` identifies the global order."""

    plan_fingerprint: str

    def steps(self, first: int, total: int) -> Iterator[Sequence[Row]]:
        """Yield this worker's rows of global batches first .. total-1; each row has clip_id and epoch."""

    def validation(self) -> Sequence[Row]:
        """Return this worker's share of the validation clips, as many on every worker; `repeated` ones do not count."""


class Wish(IntEnum):
    """What the surroundings want of a run after a step; the strongest wish of any worker holds for all."""

    GO_ON = 0
    SAVE = 1
    """A machine will be taken away: save now."""
    STOP = 2
    """Save and end; the run goes on another time."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: `wish`, `reached` and `reported` on every rank, the others on rank 0.

    Weights are the averaged ones where the run has an average. Validation values are given as they are logged; none where
    the step was not validated.
    """

    log: Callable[[int, dict[str, float]], None]
    resumed: Callable[[int], None]
    """The loop goes on after so many steps: what was logged later will come again."""
    judge: Callable[[int, dict[str, float]], float | None]
    """The value by which checkpoints are ranked, the lowest first; None for one that cannot be the best."""
    export: Callable[[int, Weights, dict[str, float], Path], None]
    """Write the weights for use into a checkpoint's folder; called on the thread that writes it."""
    committed: Callable[[Checkpoint], None]
    """A checkpoint counts; called on the thread that wrote it."""
    sample: Callable[[int, Weights], None]
    wish: Callable[[int], Wish]
    reached: Callable[[int, str], None]
    """The worker has come so far, in step and place: what a watch needs to name the one that does not come."""
    reported: Callable[[int], None]
    """A checkpoint of that step is on its way."""


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
        decay = config.train.ema_decay
        self.ema = None if decay is None else Ema(self.main.local_parameters(), decay)
        self._meter = Meter()
        self._saved_step = 0  # of the newest checkpoint that this run began to write, or started at

    def run(self) -> None:
        """Train to the end.

        Raises on every rank: TrainingError for a loss that is not finite, before the step, and for a validation or weights that
        are not, before a checkpoint; Stopped, with a checkpoint, where the surroundings wish it.
        """
        try:
            self._run()
        except BaseException:
            self.store.linger()
            raise

    def _run(self) -> None:
        newest = self._restore()
        first = newest.step if newest else 0
        if rank() == 0:
            self.hooks.resumed(first)
            if newest is not None:
                self.hooks.committed(newest)  # a kill may have come before this was done
        if first == 0:
            self._validate(0)
        if first < self.total_steps:
            self._obey(first)  # a wish that came while the workers started
        waiting = time.perf_counter()
        for step, rows in enumerate(self.feed.steps(first, self.total_steps), start=first):
            self._meter.wait(time.perf_counter() - waiting)
            self._train_step(step, rows)
            self._finish_step(step + 1)
            waiting = time.perf_counter()
            first = step + 1
            self.hooks.reached(first, "reading samples")
        if first != self.total_steps:
            raise TrainingError(
                f"the samples ended after step {first} of {self.total_steps}; run the same command again to go on from the "
                "newest checkpoint."
            )
        self.store.wait()
        barrier()  # rank 0 has committed

    def _finish_step(self, done: int) -> None:
        """Do what is due after `done` steps: log, validate, save, sample, and what the surroundings wish."""
        train = self.config.train
        last = done == self.total_steps
        if done % train.log_every == 0 or last:
            self._log(done, self._meter.flush(self.device))
        saving = done % train.checkpoint_every == 0 or last
        # At every checkpoint too: an export without a validation value could not become the best one.
        validated = self._validate(done) if saving or done % train.validate_every == 0 else {}
        if saving:
            self._save(done, validated)
        if not last:
            self._obey(done)  # before a preview, which may take longer than is left
        asked = train.sample_every is not None and done % train.sample_every == 0
        if train.previews and (last or asked):
            self._sample(done)
        self.store.raise_failure()

    def _obey(self, done: int) -> None:
        """Save now, or save and stop, if any rank's surroundings wish it."""
        wish = Wish(int(largest(self.hooks.wish(done), self.device)))
        if wish == Wish.GO_ON:
            return
        if self._saved_step != done:
            self._save(done, {})
        self.store.wait()
        barrier()
        if wish == Wish.STOP:
            raise Stopped(f"stopped as asked after step {done} of {self.total_steps}")

    def _train_step(self, step: int, rows: Sequence[Row]) -> None:
        config = self.config
        micro = config.train.micro
        lr = learning_rate(config.optim, step, self.total_steps)
        for start in range(0, len(rows), micro):
            self.hooks.reached(step, f"computing samples {start} to {start + micro}")
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
        self._meter.count(step, lr, len(rows) * world_size())

    def _batch(self, rows: Sequence[Row]) -> Batch:
        seeds = [seed_of(self.config.seed, int(row["epoch"]), str(row["clip_id"])) for row in rows]
        return self.task.collate(rows, seeds).to(self.device)

    def _refuse_non_finite(self, step: int, what: str, value: Tensor, batch: Batch) -> None:
        """Raise on every rank if `value` is not finite on any, before anything of this step is stored."""
        self.hooks.reached(step, f"agreeing on the {what}")
        found = float(value.detach())
        if not largest(float(not math.isfinite(found)), self.device):
            return
        named = from_all((found, worker_name(), batch.clip_ids))
        guilty = [(worker, clips) for found, worker, clips in named if not math.isfinite(found)]
        who = f"{guilty[0][0]}: " if len(guilty) < len(named) else ""  # a gradient is the same on all
        clips = ", ".join(clip for _, clips in guilty for clip in clips)
        self._end(
            step,
            f"{who}the {what} of step {step} is not finite; the step was not taken. Clips of that batch: {clips}.",
            "Look at these clips, or lower optim.lr",
        )

    def _refuse_non_finite_state(self, done: int, gathered: Weights) -> None:
        """Raise on every rank if a weight is not finite on any: a checkpoint of it would only end the next start.

        What was gathered stands for the main network: an average of what was not finite is not, and a rank's own part may end
        in padding, which holds anything.
        """
        values = list(gathered.values())
        for engine in self.engines.values():
            if engine is not self.main:
                values += engine.local_parameters().values()
        # A sum is not finite where a term is not, and takes a seventeenth of the time that looking at each takes.
        sums = torch.stack([value.sum(dtype=torch.float32).to(self.device) for value in values])
        if largest(float(not sums.isfinite().all()), self.device):
            self._end(
                done,
                f"weights are not finite after step {done}; no checkpoint was made of that step.",
                "Lower optim.lr",
            )

    def _end(self, done: int, found: str, remedy: str) -> NoReturn:
        """Raise AgreedEnd, on every rank, for what would end the same if it were tried again."""
        self.hooks.reached(done, "ending the run, once the last checkpoint is written")
        self.store.wait()
        barrier()
        self.hooks.reached(done, "ending the run, looking for the newest checkpoint")
        newest = from_rank_0(self.store.newest() if rank() == 0 else None)
        raise AgreedEnd(
            f"{found} Last checkpoint: {newest.folder if newest else 'none yet'}. {remedy}; that is another run: begin it "
            f"under a new name{f' from inputs.init_from={newest.folder}/export' if newest else ''}."
        )

    @torch.no_grad()
    def _validate(self, done: int) -> dict[str, float]:
        """Log and return the means over all validation clips; no clips give none.

        A clip whose value is NaN has none and does not count. Raises on every rank, as for a loss, where the mean of what
        checkpoints are judged by is not finite: one clip of infinite value is enough, or none that has one.
        """
        rows = self.feed.validation()
        for network in self.networks.values():
            network.eval()
        sums: dict[str, list[float]] = {}
        size = self.config.train.micro
        for start in range(0, len(rows), size):
            self.hooks.reached(done, f"validating from clip {start}")
            part = rows[start : start + size]
            batch = self._batch(part)
            counts = torch.tensor([not row.get("repeated", False) for row in part], device=self.device)
            with self.main.computing():
                values = self.task.validate(self.networks, batch)
            for name, value in values.items():
                entry = sums.setdefault(name, [0.0, 0.0])
                known = value[counts & ~torch.isnan(value)]
                entry[0] += float(known.sum())
                entry[1] += len(known)
        for network in self.networks.values():
            network.train()
        if sums:
            table = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)
            if world_size() > 1:
                dist.all_reduce(table)
            means = {
                f"val/{name}": float(s / n) for name, (s, n) in zip(sums, table.tolist(), strict=True) if n
            }
            judged_by = STAGES[self.config.stage].judged_by
            if not math.isfinite(means.get(f"val/{judged_by}", math.nan)):
                self._end(
                    done,
                    f"the validation after step {done} is not finite (val/{judged_by}); no checkpoint was made of that step.",
                    "Look at the clips of the split val, or lower optim.lr",
                )
            self._log(done, means)
            return means
        return {}

    def _log(self, done: int, metrics: dict[str, float]) -> None:
        if rank() == 0:
            self.hooks.log(done, metrics)

    def _weights(self) -> Weights:
        return self.main.gather(self.ema.shadow if self.ema else self.main.local_parameters())

    def _sample(self, done: int) -> None:
        weights = self._weights()
        if rank() == 0:
            self.hooks.sample(done, weights)

    def _save(self, done: int, validated: dict[str, float]) -> None:
        self.store.wait()  # before anything is copied: one copy in memory is enough
        self.hooks.reached(done, "copying the checkpoint")
        weights = self._weights()
        self._refuse_non_finite_state(done, weights)
        if rank() != 0:
            weights = {}
        files: dict[str, memoryview] = {}
        for engine in self.engines.values():
            files |= engine.snapshot()
        state = {
            "plan": self.feed.plan_fingerprint,
            "strategy": self.config.train.strategy,
            "ema_updates": self.ema.updates if self.ema else None,
            "validation": self.hooks.judge(done, validated),
        }
        export = partial(self.hooks.export, done, weights, validated)
        self.store.save(done, state, files, export, self.hooks.committed)
        self._saved_step = done
        self.hooks.reported(done)

    def _restore(self) -> Checkpoint | None:
        """Go on at the newest checkpoint that is whole, and return it; None where there is none."""
        newest = self.store.begin()
        if newest is None:
            return None
        # The driver has asked already; a machine with another NumPy would serve other samples than it does.
        check_continues(newest, self.config.train.strategy, self.total_steps)
        check_order(newest, self.feed.plan_fingerprint)
        try:
            for engine in self.engines.values():
                engine.load(newest)
            if self.ema is not None:
                # What is exported is the average: it is stored once.
                whole = load_file(newest.export / "model.safetensors")
                self.ema.restore(self.main.localise(whole), newest.state["ema_updates"])
        except (EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            # Its files are what was written. Other errors are not theirs: a worker that was killed meanwhile, a full device.
            raise CheckpointError(
                f"{newest.folder} cannot be loaded ({type(error).__name__}: {error}); delete that folder to go on from the one "
                "before."
            ) from error
        self._saved_step = newest.step
        return newest


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
        if world_size() > 1:
            dist.all_reduce(means)
            means /= world_size()
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        metrics = dict(zip(names, means.tolist(), strict=True))
        metrics |= self._facts
        metrics |= {"samples_per_s": self._samples / elapsed, "data_wait": self._waited_s / elapsed}
        self._reset()
        return metrics
