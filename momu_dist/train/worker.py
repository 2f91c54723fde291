"""What one worker does, with or without Ray: build, resume, train, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.core.seeds import seed_of
from momu_dist.core.tasks.base import Task
from momu_dist.data.feed import FeedSpec
from momu_dist.data.latents import LatentManifest
from momu_dist.data.manifest import Manifest
from momu_dist.errors import ConfigError, MomuError, Stopped, Superseded
from momu_dist.inference.export import find_export
from momu_dist.tracking import Tracker, open_tracker
from momu_dist.train.build import build_task, export_facts, pick_device, required_exports
from momu_dist.train.collective import rank, worker_name, world_size
from momu_dist.train.engine import DdpEngine, Engine, EngineOptions, LocalEngine
from momu_dist.train.exports import Exports, register_best
from momu_dist.train.folder import Relogged, RunFolder, without_time, writing_to
from momu_dist.train.loop import AgreedEnd, Feed, Hooks, Trainer, Weights, Wish
from momu_dist.train.seen import RecordedFeed
from momu_dist.train.store import CheckpointStore, Retention
from momu_dist.train.watch import Watch

logger = logging.getLogger(__name__)

SENT_AGAIN = 1000
"""Entries of the log that a restart sends to the tracker once more."""


@dataclass(frozen=True)
class Host:
    """What a worker runs in, besides its data; the default is a process of its own."""

    drained: Callable[[int], bool] = lambda done: False
    """Called on every rank after so many steps: whether a machine of the run has been told that it will be taken away."""
    reported: Callable[[dict[str, Any]], None] = lambda facts: None
    """Called on every rank with the step and the folder of a checkpoint that is on its way."""
    restart: Callable[[], None] | None = None
    """Ends this worker so that all are started again; None where nobody would."""


def run_worker(
    config: RunConfig,
    spec: FeedSpec,
    make_feed: Callable[[FeedSpec], Feed],
    total_steps: int,
    host: Host = Host(),
) -> None:
    """Train `config` on this process as its rank. A MomuError of any rank is left in the run folder before it is raised.

    Stopped, which is no failure, is only raised.
    """
    folder = RunFolder(config)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    try:
        with writing_to(folder.path), _alone(folder):
            _run(config, spec, make_feed, total_steps, host, folder)
    except (Stopped, Superseded):
        raise
    except MomuError as error:
        mine = world_size() > 1 and not isinstance(error, AgreedEnd)
        who = f"{worker_name()}: " if mine else ""
        folder.fail(f"{who}{error}")
        raise


def _run(
    config: RunConfig, spec: FeedSpec, make_feed: Callable[[FeedSpec], Feed], total_steps: int, host: Host, folder: RunFolder,
) -> None:  # fmt: skip
    """Train and track: what is told of a run's fate is told here."""
    began = time.time()
    tracker = open_tracker(
        config.tracking.uri if rank() == 0 else "none", config.tracking.experiment, folder.path
    )
    run_id = tracker.start(config.name, resolved_dict(config), {"stage": config.stage}, folder.tracking_id())
    if rank() == 0:
        folder.keep_tracking_id(run_id)
    try:
        with _watch(config, folder, host) as watch:
            _train(config, spec, make_feed, total_steps, folder, tracker, host, watch)
        if rank() == 0 and config.tracking.uri != "none":
            register_best(config, folder, tracker)
    except Superseded:
        raise  # the attempt that followed says how the run fares
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | Stopped) else "FAILED")
        raise
    tracker.finish()
    # Last of all: a run that is marked as done is not looked after again.
    if rank() == 0:
        seconds = round(time.time() - began, 1)
        folder.finish({"steps": total_steps, "seconds": seconds, "export": str(folder.export)})


def _alone(folder: RunFolder) -> AbstractContextManager[None]:
    return folder.written_alone() if rank() == 0 else nullcontext()


def _watch(config: RunConfig, folder: RunFolder, host: Host) -> Watch:
    return Watch(folder.stalls, rank(), world_size(), config.train.stall_s, folder.tell, host.restart)


class _Log:
    """What a run logs: in its folder and in the tracker, each value with the time it was logged first."""

    def __init__(self, folder: RunFolder, tracker: Tracker) -> None:
        self.folder = folder
        self.tracker = tracker
        self._before = Relogged([], {})
        self._first: int | None = None

    def resumed(self, step: int) -> None:
        """Forget what was logged after `step`: it will come again."""
        self._before = self.folder.rewind_metrics(step)
        # A process that was killed may not have sent the last of them; what is sent twice counts once.
        for entry in self._before.kept[-SENT_AGAIN:]:
            self.tracker.metrics(entry["step"], without_time(entry), entry["time"])
        self._first = step + 1
        begins = f"goes on at step {step}" if step else "begins"
        self.folder.tell(f"{begins} with {world_size()} {'worker' if world_size() == 1 else 'workers'}")

    def done(self, step: int) -> None:
        """Tell of the first step that is done, which ends a start."""
        if step == self._first:
            self.folder.tell(f"step {step} is done, the first of this start")

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        when = self._before.time_of(step, metrics)
        self.folder.append_metrics(step, metrics, when)
        self.tracker.metrics(step, metrics, when)


def _train(
    config: RunConfig, spec: FeedSpec, make_feed: Callable[[FeedSpec], Feed], total_steps: int,
    folder: RunFolder, tracker: Tracker, host: Host, watch: Watch,
) -> None:  # fmt: skip
    device = pick_device(config)
    feed = make_feed(spec)
    if config.train.record_samples:
        feed = RecordedFeed(feed, folder.samples_seen, rank(), world_size())
    data = Manifest.load(config.data.root)
    exports = required_exports(config, data)
    latents = LatentManifest.load(spec.root) if STAGES[config.stage].reads == "latents" else None
    task = build_task(config, latents, data, exports)
    task.to(device)
    engines = build_engines(config, task, device)
    facts = export_facts(config, data, exports, latents)
    vaes = {name: export.folder for name, export in exports.items()} if latents is not None else {}
    written = Exports(folder, config, facts, vaes, total_steps)
    retention = Retention(config.train.keep_last, config.train.keep_best)
    store = CheckpointStore(folder.checkpoints, retention, folder.tell)
    log = _Log(folder, tracker)

    def resumed(step: int) -> None:
        written.restore()
        log.resumed(step)

    def sample(step: int, weights: Weights) -> None:
        # Imported here: only the first worker makes previews, and what draws and plays them takes seconds to import.
        from momu_dist.train.preview import write_preview

        target = folder.samples / f"step-{step:09d}"
        try:
            paths = write_preview(config, weights, facts, exports, target, device)
        except Stopped:
            raise
        except (MomuError, ArithmeticError, OSError, RuntimeError, ValueError) as error:
            # A look at a half-trained network, or a full disk, must not end a run of days.
            logger.warning("no preview of step %d: %s", step, error)
            return
        for path in paths:
            tracker.artifact(path, f"samples/step-{step:09d}")

    def wish(done: int) -> Wish:
        log.done(done)
        drained = host.drained(done)  # asked on every rank, or on none
        if rank() == 0 and drained:
            folder.tell(f"a machine will be taken away: saving after step {done}")
        if rank() == 0 and folder.stop_requested():
            return Wish.STOP
        return Wish.SAVE if drained else Wish.GO_ON

    def reported(step: int) -> None:
        host.reported({"step": step, "checkpoint": str(store.path_of(step))})

    hooks = Hooks(
        log=log,
        resumed=resumed,
        judge=written.judge,
        export=written.write,
        committed=written.committed,
        sample=sample,
        wish=wish,
        reached=watch.reached,
        reported=reported,
    )
    Trainer(config, task, feed, engines, store, hooks, total_steps, device).run()


def build_engines(config: RunConfig, task: Task, device: torch.device) -> dict[str, Engine]:
    """Return an engine a network: the run's strategy for the first, plain modules for the others (a discriminator).

    First weights are drawn from the run's seed alone, the same on every worker, or read from `inputs.init_from`.
    """
    train = config.train
    if not train.fits(world_size()):
        raise ConfigError(
            f"{world_size()} workers cannot share train.global_batch {train.global_batch} in micro-batches of {train.micro}; use "
            f"{train.usable(world_size())}."
        )
    accumulation = train.global_batch // (world_size() * train.micro)
    options = EngineOptions(config.optim, train.micro, accumulation, train.precision == "bf16")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "weights"))
        networks = task.networks()
    main = next(iter(networks))
    if config.inputs.init_from is not None:
        find_export(config.inputs.init_from, stage=config.stage).load_into(networks[main])
        networks[main].train()
    make_main = strategy_engine(train.strategy)
    return {
        name: (make_main if name == main else LocalEngine)(name, net.to(device), options)
        for name, net in networks.items()
    }


def strategy_engine(strategy: str) -> Callable[[str, nn.Module, EngineOptions], Engine]:
    """Return what makes the main network's engine."""
    if strategy == "local":
        return LocalEngine
    if strategy == "ddp":
        return DdpEngine
    # Imported here because importing DeepSpeed takes seconds and a compiler, which the others need not pay.
    from momu_dist.train.deepspeed_engine import DeepSpeedEngine

    return partial(DeepSpeedEngine, int(strategy.removeprefix("zero")))
