"""A run from its config to its end, on this process or on Ray: the driver's side."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.data.feed import FeedSpec, LocalFeed, make_plan
from momu_dist.data.latents import UnitRunner, in_process
from momu_dist.data.manifest import Manifest
from momu_dist.data.progress import progress
from momu_dist.errors import CheckpointError, ConfigError, Stopped, without_login
from momu_dist.inference.export import find_export
from momu_dist.tracking import URI_VARIABLE, auto_uri, check_uri, open_tracker, send_waiting, waits
from momu_dist.tracking.registry import resolve
from momu_dist.train.build import build_task, feed_spec, open_run_latents, required_exports
from momu_dist.train.checkpoint import check_continues, check_order, checkpoint_folders, newest_checkpoint
from momu_dist.train.dry_run import Size, run_size, warnings
from momu_dist.train.folder import RunFolder, parse_metrics
from momu_dist.train.inputs import begun_with, keep_inputs
from momu_dist.train.store import sweep
from momu_dist.train.worker import run_worker


def train(config: RunConfig, since: float | None = None) -> Path:
    """Train `config` to its end, continuing where an earlier attempt stopped; return the run folder.

    Strategy `local` trains on this process without Ray; the others need a running Ray (`train.ray_session`). Every
    MomuError is one sentence for the user. `since` (`time.time()`) is when the command was given, if that was before this
    call: a file `stop` in the run folder that is younger is meant for this start.
    """
    since = time.time() if since is None else since
    given = _absolute(resolved_inputs(config))
    config = _with_usable_workers(given)
    folder = RunFolder(config)
    data = Manifest.load(config.data.root)
    origin = _origin(begun_with(config, folder), data)
    folder.check(config, origin)
    size = run_size(config)
    finished = folder.finished()
    if finished is not None and finished["steps"] >= size.total_steps:
        find_export(folder.export, stage=config.stage)  # or the sentence that says it is not there
        print(f"{config.name} is finished ({finished['steps']} steps); its model is at {folder.export}.")
        if waits(folder.path):
            with folder.alone():
                send_waiting(config.tracking.uri, config.tracking.experiment, folder.path)
        return folder.path
    with folder.alone(), Signals(folder).obeyed() as signals:
        with folder.unwritten() as unwritten:
            if unwritten:  # else the workers do it, once the one of an attempt before has ended
                sweep(folder.checkpoints)
        for text in (*warnings(given, size), *_tracked_elsewhere(config, folder)):
            tqdm.write(f"warning: {text}")
        try:
            _train(config, origin, since, folder, data, size, signals)
        except Stopped as stop:
            raise Stopped(f"{stop}: {_how_to_go_on(config, folder)}") from stop
    return folder.path


def _origin(config: RunConfig, data: Manifest) -> dict[str, str]:
    """Return the fingerprints of the data and of the weights that the run starts from."""
    exports = required_exports(config, data)
    if config.inputs.init_from is not None:
        exports["init_from"] = find_export(config.inputs.init_from, stage=config.stage)
    return {"data": data.fingerprint, **{name: export.sha256 for name, export in exports.items()}}


def encode(config: RunConfig) -> Path:
    """Encode the latents that the diffusion stage `config` reads and train nothing; return their folder.

    What is there already is kept, so runs of the same VAEs and data that follow find them.
    """
    if STAGES[config.stage].reads != "latents":
        raise ConfigError(
            f"stage {config.stage} reads no latents; --only-latents goes with dit_m2a and dit_a2m."
        )
    config = _absolute(resolved_inputs(config))
    config = begun_with(config, RunFolder(config))
    data = Manifest.load(config.data.root)
    exports = required_exports(config, data)
    local = config.train.strategy == "local"
    if not local:
        config = _with_ray_device(config)
    return open_run_latents(config, data, exports, in_process if local else _ray_units(config)).root


def _train(
    config: RunConfig,
    origin: dict[str, str],
    since: float,
    folder: RunFolder,
    data: Manifest,
    size: Size,
    signals: Signals,
) -> None:
    newest = newest_checkpoint(folder.checkpoints, tqdm.write)
    done = newest.step if newest else 0
    if newest is None and folder.export.is_dir():
        raise CheckpointError(
            f"{folder.checkpoints} holds no checkpoint, but {folder.export} was made from one; bring the checkpoints back, or "
            f"delete {folder.path} to start anew."
        )
    if newest:
        check_continues(newest, config.train.strategy, size.total_steps)
        print(f"{config.name} goes on at step {done} of {size.total_steps} (checkpoint {newest.folder}).")
    local = config.train.strategy == "local"
    given = config
    if not local:
        config = _with_ray_device(config)
        _check_room(config)
    config = keep_inputs(config, folder, origin)
    exports = required_exports(config, data)
    latents = None
    if STAGES[config.stage].reads == "latents":
        latents = open_run_latents(config, data, exports, in_process if local else _ray_units(config))
    task = build_task(config, latents, data, exports)
    spec = feed_spec(config, data.root if latents is None else latents.root, task.columns)
    del task
    if newest:
        check_order(newest, make_plan(spec).fingerprint())
    # Not before: a start that is refused leaves the run as it was.
    folder.open(given, origin)
    folder.withdraw_stop(since)
    try:
        signals.training = True
        with progress_bar(config.name, folder, size.total_steps, min(done, size.total_steps)):
            if local:
                run_worker(config, spec, LocalFeed, size.total_steps)
            else:
                _run_on_ray(config, spec, size.total_steps)
    except KeyboardInterrupt as error:
        if not local:
            _close_tracking(config, folder)
        raise KeyboardInterrupt(f"interrupted: {_how_to_go_on(config, folder)}") from error


def _how_to_go_on(config: RunConfig, folder: RunFolder) -> str:
    found = checkpoint_folders(folder.checkpoints)  # not read: there may be seconds left
    return (
        f"{config.name} has {f'its newest checkpoint at {found[0]}' if found else 'no checkpoint yet'}; run the same "
        f"command again to {'continue from there' if found else 'start anew'}."
    )


class Signals:
    """SIGTERM and SIGUSR2, by which schedulers say that a machine will be taken away.

    While workers train they are asked to save and stop. Before that, or when the same signal comes again, this process just
    ends, by Stopped: there is nothing to save, or nobody who answers. The other signal changes nothing: a scheduler may
    send one to all processes of a job while the launcher passes on the other.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.training = False
        self._asked: set[int] = set()

    @contextmanager
    def obeyed(self) -> Iterator[Signals]:
        """Obey them in the body; on another thread than the main one Python gives none."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR2)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        name = signal.Signals(number).name
        if number in self._asked or not self.training:
            raise Stopped(f"stopped by {name}")
        self._asked.add(number)
        if len(self._asked) > 1:
            return
        try:
            self.folder.request_stop(name)
            self.folder.tell(f"{name} received: the run saves and stops")
        except OSError as error:
            raise Stopped(
                f"stopped by {name}, without a checkpoint of this step ({error.strerror})"
            ) from error


def _close_tracking(config: RunConfig, folder: RunFolder) -> None:
    """Mark the tracked run as stopped, in place of workers that were ended before they could."""
    run_id = folder.tracking_id()
    if run_id is None:
        return
    tracker = open_tracker(config.tracking.uri, config.tracking.experiment, folder.path)
    tracker.start(config.name, {}, run_id=run_id)
    tracker.finish("KILLED")


def _run_on_ray(config: RunConfig, spec: FeedSpec, total_steps: int) -> None:
    # Imported late: a machine without Ray trains with strategy local.
    from momu_dist.train.ray_trainer import run_on_ray

    run_on_ray(config, spec, total_steps)


def _check_room(config: RunConfig) -> None:
    from momu_dist.train.ray_trainer import check_room

    check_room(config)


def _with_usable_workers(config: RunConfig) -> RunConfig:
    """Return the run with numbers of workers that can share the global batch; `warnings` says what is rounded."""
    train = config.train
    fewest = None if train.min_workers is None else train.fewest
    return replace(config, train=replace(train, workers=train.usable(train.workers), min_workers=fewest))


def _with_ray_device(config: RunConfig) -> RunConfig:
    from momu_dist.train.ray_trainer import ray_device

    return replace(config, train=replace(config.train, device=ray_device(config)))


def _ray_units(config: RunConfig) -> UnitRunner:
    from momu_dist.data.ray_pipeline import map_units
    from momu_dist.train.ray_session import cpus_per_core

    gpus = 1.0 if config.train.device == "cuda" else 0.0
    return lambda units, fn: map_units(units, fn, cpus_per_core(), "encode latents", gpus)


def resolved_inputs(config: RunConfig) -> RunConfig:
    """Return the run with the folders of the registered models among its inputs, looked up where the run is tracked."""
    tracked = config.tracking.uri
    store = {"auto": auto_uri(Path(config.out)), "none": None}.get(tracked, tracked)
    given = {name: value for name, value in vars(config.inputs).items() if value is not None}
    paths = {name: str(resolve(value, store)) for name, value in given.items()}
    for name, path in paths.items():
        if path != given[name]:
            print(f"inputs.{name}: {given[name]} is {path}")
    return replace(config, inputs=replace(config.inputs, **paths))


def _absolute(config: RunConfig) -> RunConfig:
    """Return the run with absolute paths: workers have working directories of their own.

    Inside a job with a working directory, relative paths would point into a copy that is deleted with the job.
    """
    temporary = "runtime_resources" in Path.cwd().parts

    def absolute(name: str, value: str | None) -> str | None:
        if value is None or Path(value).is_absolute():
            return value
        if temporary:
            raise ConfigError(
                f"{name} is the relative path {value!r}, but this job runs in a temporary copy of its working directory "
                f"({Path.cwd()}); give an absolute path: {name}=/shared/..."
            )
        return str(Path(value).absolute())

    def section(name: str, part: Any, fields: Sequence[str]) -> Any:
        return replace(part, **{field: absolute(f"{name}.{field}", getattr(part, field)) for field in fields})

    return replace(
        config,
        out=absolute("out", config.out) or config.out,
        data=section("data", config.data, ("root", "latents")),
        tracking=replace(config.tracking, uri=_tracked(config.tracking.uri)),
        inputs=section("inputs", config.inputs, ("music_vae", "motion_vae", "init_from")),
    )


def _tracked_elsewhere(config: RunConfig, folder: RunFolder) -> list[str]:
    """Return what is to be said where a run goes on in another store than the one it was tracked in."""
    beside = auto_uri(Path(config.out), {})
    before, now = (
        beside if uri == "auto" else uri for uri in (folder.tracked_at(), without_login(config.tracking.uri))
    )
    if before is None or now in (before, "none"):
        return []
    return [
        f"{config.name} was tracked at {before} and goes on at {now}, as another run with the newest metrics only; "
        f"tracking.uri={before} goes on in the one that is there"
    ]


def _tracked(uri: str) -> str:
    """Return `uri` as workers take it, who may lack this process's variables: an sqlite file's path is absolute.

    A login in one that the environment names is left out; `open_tracker` takes it from there, where others do not see it.
    """
    named = os.environ.get(URI_VARIABLE) if uri == "auto" else None
    check_uri(named or uri)
    uri = without_login(named) if named else uri
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or Path(path).is_absolute() else f"sqlite:///{Path(path).absolute()}"


@contextmanager
def progress_bar(name: str, folder: RunFolder, total_steps: int, done: int = 0) -> Iterator[None]:
    """Show the run's progress and what it tells by following files of its folder, wherever the workers are."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(name, folder, total_steps, done, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(name: str, folder: RunFolder, total_steps: int, done: int, stop: threading.Event) -> None:
    metrics, events = NewLines(folder.metrics), NewLines(folder.events)
    with progress(total_steps, name, "step", initial=done) as bar:
        while True:
            last_round = stop.wait(0.5)
            for entry in parse_metrics(metrics.read()):
                _show(bar, entry)
            for line in events.read().splitlines():
                tqdm.write(f"{name}: {line}")
            if last_round:
                return


class NewLines:
    """The whole lines that were added to a file since the last look, or since this was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = path.stat().st_size if path.is_file() else 0

    def read(self) -> str:
        if not self.path.is_file():
            return ""
        self._position = min(
            self._position, self.path.stat().st_size
        )  # a restart drops what it will do again
        with self.path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.decode(errors="replace")


def _show(bar: tqdm, entry: dict[str, Any]) -> None:
    shown = {
        key: f"{entry[key]:.4g}"
        for key in ("total", "val/rec", "val/true", "val/mel_distance", "samples_per_s")
        if key in entry
    }
    if shown:
        bar.set_postfix(shown, refresh=False)
    bar.update(int(entry["step"]) - bar.n)
