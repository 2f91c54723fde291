"""Ray Train runs the workers, Ray Data feeds them. Only this file and ray_controller import ray.train."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from momu_dist.config.load import config_from_dict, resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.data.feed import FeedSpec, make_plan, validation_rows
from momu_dist.data.ray_pipeline import READER_CPUS
from momu_dist.data.record import table_rows
from momu_dist.errors import ConfigError, GivenUp, Stopped, TrainingError
from momu_dist.train.checkpoint import committed_step
from momu_dist.train.collective import from_rank_0, largest, rank
from momu_dist.train.folder import RunFolder, moved_away
from momu_dist.train.ray_controller import PlannedIngest, RemainingSteps, WholeShares
from momu_dist.train.worker import Host, run_worker

DRAIN_POLL_S = 2.0


def run_on_ray(config: RunConfig, spec: FeedSpec, total_steps: int) -> None:
    """Train `config` on its workers; Ray must be running. Failed workers are restarted from the newest checkpoint.

    A MomuError of the workers (a loss that is not finite, a checkpoint that does not fit) is raised here as it was; it
    would only happen again, so the next attempt ends before it begins.
    """
    train = config.train
    folder = RunFolder(config)
    drains = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
    use_gpu = train.device == "cuda"
    trainer = _Trainer(
        config,
        _worker,
        train_loop_config={
            "config": resolved_dict(config) | {"tracking": vars(config.tracking)},
            "spec": spec,
            "total_steps": total_steps,
            "drains": drains,
        },
        # Longer than a stall: the watch names who does not come before the others give up waiting.
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=math.ceil(train.stall_s) + 300
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(train.min_workers, train.workers) if elastic(config) else train.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": train.worker_cpus, "GPU": int(use_gpu)},
            # GPUs talk fastest within a node; CPUs would share its memory and its cores.
            placement_strategy="PACK" if use_gpu else "SPREAD",
        ),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=str(folder.path / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=train.max_failures),
        ),
        # Evaluated again whenever the workers start: only the steps that remain are read.
        datasets={"train": RemainingSteps(folder.checkpoints, total_steps)},
        dataset_config=PlannedIngest(spec),
    )
    try:
        with _interruptible():
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        _raise_failure(folder)
        step = committed_step(folder.checkpoints)
        raise GivenUp(
            f"training of {config.name} was given up (train.max_failures {train.max_failures}); last cause: {_cause(error)}. "
            f"Newest checkpoint: {f'step {step}' if step else 'none'}. Start it again with the same name to continue."
        ) from error
    _raise_failure(folder)
    finished = folder.finished() or {"steps": 0}
    if finished["steps"] < total_steps and folder.stop_requested():
        raise Stopped(f"stopped as asked after step {committed_step(folder.checkpoints)} of {total_steps}")
    if finished["steps"] < total_steps:
        raise GivenUp(
            f"the workers of {config.name} ended without finishing; look into {folder.path / 'ray'}."
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make Ctrl-C a KeyboardInterrupt again, once Ray has stopped the workers.

    Ray Train puts its own handler in place and leaves it there; it stops the workers and then ends the process by
    SystemExit, with code 1 and without a word.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _raise_failure(folder: RunFolder) -> None:
    if folder.gone():  # and with it the reason that a worker would have left there
        folder.remove_rays_own()
        raise moved_away(folder.path)
    failure = folder.failure()
    if failure is not None:
        raise TrainingError(failure)


def ray_device(config: RunConfig) -> Literal["cpu", "cuda"]:
    """Return what `train.device` means on this cluster; `auto` takes GPUs where there are any.

    Raises ConfigError where there are fewer GPUs than workers: they would share one without having been asked to.
    """
    train = config.train
    if train.device != "auto":
        return train.device
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if 0 < gpus < (train.min_workers or train.workers):
        raise ConfigError(
            f"Ray has {gpus:g} GPUs for {train.workers} workers; set train.workers={int(gpus)}, or train.device=cpu."
        )
    return "cuda" if gpus else "cpu"


def check_room(config: RunConfig) -> None:
    """ConfigError where Ray has too few CPUs.

    Ray Data gets what the workers leave; with nothing left it waits for ever instead of failing.
    """
    train = config.train
    found = ray.cluster_resources().get("CPU", 0.0)
    fewest = train.min_workers or train.workers
    needed = fewest * (train.worker_cpus + READER_CPUS)
    if found < needed:
        raise ConfigError(
            f"Ray has {found:g} CPUs, {fewest} workers with {train.worker_cpus:g} CPUs each and their readers need "
            f"{needed:g}; start Ray with more --num-cpus (they are logical), or lower train.workers or train.worker_cpus."
        )


def elastic(config: RunConfig) -> bool:
    """Whether the number of workers may change during the run."""
    fewest = config.train.min_workers
    return fewest is not None and fewest < config.train.workers


class _Trainer(TorchTrainer):
    """Ray Train's trainer, which among the numbers of workers it may use takes one that can share the global batch."""

    def __init__(self, config: RunConfig, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._config = config

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if elastic(self._config):
            sizes = [n for n in range(1, self._config.train.workers + 1) if self._config.train.fits(n)]
            cpus = self._config.train.worker_cpus + READER_CPUS
            parts["scaling_policy"] = WholeShares(self.scaling_config, sizes, cpus)
        return super()._initialize_and_run_controller(**parts)


def _worker(arguments: dict[str, Any]) -> None:
    config = config_from_dict(arguments["config"], where="the driver's config")
    folder = RunFolder(config)
    if from_rank_0(folder.gone() or folder.failure() is not None):  # all or none: others may see a disk later
        return  # an attempt before this one found a reason that will not go away; the driver tells it
    drained = _Drain() if arguments["drains"] else Host.drained
    host = Host(drained, ray.train.report, _restart)
    try:
        run_worker(config, arguments["spec"], RayFeed, arguments["total_steps"], host)
    except (TrainingError, Stopped):
        return  # raised by all ranks together, known to the driver: nothing to tear down or to try again


class _Drain:
    """Asks Ray whether a node of the run is being drained; answers yes once for each notice.

    Ray's call is a barrier of all workers, so it is made every `DRAIN_POLL_S` only, when rank 0 says so: a notice may come
    half a minute before the end.
    """

    def __init__(self) -> None:
        self._next = 0.0
        self._known: object = None

    def __call__(self, done: int) -> bool:
        due = rank() == 0 and time.monotonic() >= self._next
        if not largest(float(due), ray.train.torch.get_device()):
            return False
        self._next = time.monotonic() + DRAIN_POLL_S
        info = ray.train.get_preemption_info()
        new = info is not None and info != self._known
        self._known = info
        return new


def _restart() -> None:
    """End this worker without a word, as a crash would: Ray starts all of them again."""
    os._exit(1)


@dataclass
class RayFeed:
    """This worker's shard of the stream that `PlannedIngest` makes."""

    spec: FeedSpec

    def __post_init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        share = self.spec.global_batch // self.world_size
        shard = ray.train.get_dataset_shard("train")
        # Begun here, before there is a network: the reader is a process of its own and takes seconds to start.
        self._tables = begun(shard.iter_batches(batch_size=share, batch_format="pyarrow", prefetch_batches=2))
        self.plan_fingerprint = make_plan(self.spec).fingerprint()

    def steps(self, first: int, total: int) -> Iterator[Sequence[dict[str, Any]]]:
        if first >= total:
            return
        step = first
        for table in self._tables:
            rows = table_rows(table)
            assert rows[0]["step"] == step, f"Ray Data gave step {rows[0]['step']}, expected step {step}"
            yield rows
            step += 1

    def validation(self) -> Sequence[dict[str, Any]]:
        return validation_rows(self.spec, self.rank, self.world_size)


def begun(stream: Iterable[Any]) -> Iterator[Any]:
    """Return the items of `stream`, of which the first is fetched from now on, in a thread."""
    items, nothing = iter(stream), object()
    first = Future[Any]()

    def fetch() -> None:
        try:
            first.set_result(next(items, nothing))
        except BaseException as error:
            first.set_exception(error)

    # A daemon: a process that is told to end does not wait for a reader.
    threading.Thread(target=fetch, name="first batch", daemon=True).start()

    def all_items() -> Iterator[Any]:
        if first.result() is not nothing:
            yield first.result()
            yield from items

    return all_items()


def _cause(error: Exception) -> str:
    """Return the last line of what went wrong, of the rank that began it where several failed."""
    failures = getattr(error, "worker_failures", {})
    if failures:
        rank, cause = first_failure(failures)
        return f"rank {rank}: {_last_line(cause)}"
    return _last_line(error.__cause__ or error)


def first_failure(failures: Mapping[int, Exception]) -> tuple[int, Exception]:
    """Return the rank that failed and did not only wait for one that did, with its error; the lowest of several.

    Of a worker that dies the others know by a connection that breaks, or an answer that does not come.
    """

    def only_waited(error: Exception) -> bool:
        return not isinstance(error, ray.exceptions.RayActorError) and any(
            sign in str(error)
            for sign in ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "NCCL")
        )

    return min(failures.items(), key=lambda item: (only_waited(item[1]), item[0]))


def _last_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[-1].strip() if text else type(error).__name__
