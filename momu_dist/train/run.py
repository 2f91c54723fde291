"""A run from its config to its end, on this process or on Ray: the driver's side."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.data.feed import FeedSpec, LocalFeed
from momu_dist.data.latents import UnitRunner, in_process
from momu_dist.data.manifest import Manifest
from momu_dist.errors import ConfigError
from momu_dist.inference.export import find_export
from momu_dist.tracking import auto_uri, check_uri, send_waiting
from momu_dist.tracking.registry import resolve
from momu_dist.train.build import build_task, feed_spec, open_run_latents, required_exports
from momu_dist.train.dry_run import run_size, warnings
from momu_dist.train.folder import RunFolder
from momu_dist.train.worker import run_worker


def train(config: RunConfig) -> Path:
    """Train `config` to its end, continuing where an earlier attempt stopped; return the run folder.

    Strategy `local` trains on this process without Ray; the others need a running Ray (`train.ray_session`). Every
    MomuError is one sentence for the user.
    """
    check_uri(config.tracking.uri)
    config = _absolute(_resolved(config))
    folder = RunFolder(config)
    data = Manifest.load(config.data.root)
    exports = required_exports(config, data)
    origin = {"data": data.fingerprint, **{name: export.sha256 for name, export in exports.items()}}
    if config.inputs.init_from is not None:
        origin["init_from"] = find_export(config.inputs.init_from, stage=config.stage).sha256
    folder.check(config, origin)
    size = run_size(config)
    finished = folder.finished()
    if finished is not None and finished["steps"] >= size.total_steps:
        print(f"{config.name} is finished ({finished['steps']} steps); its model is at {finished['export']}.")
        send_waiting(config.tracking.uri, config.tracking.experiment, folder.path)
        return folder.path
    folder.open(config, origin)
    for text in warnings(config, size):
        tqdm.write(f"warning: {text}")
    local = config.train.strategy == "local"
    if not local:
        config = _with_ray_device(config)
    latents = None
    if STAGES[config.stage].reads == "latents":
        latents = open_run_latents(config, data, exports, in_process if local else _ray_units(config))
    task = build_task(config, latents, data, exports)
    spec = feed_spec(config, data.root if latents is None else latents.root, task.columns)
    del task
    with progress_bar(config.name, folder.metrics, size.total_steps):
        if local:
            run_worker(config, spec, LocalFeed, size.total_steps)
        else:
            _run_on_ray(config, spec, size.total_steps)
    return folder.path


def _run_on_ray(config: RunConfig, spec: FeedSpec, total_steps: int) -> None:
    # Imported late: a machine without Ray trains with strategy local.
    from momu_dist.train.ray_trainer import run_on_ray

    run_on_ray(config, spec, total_steps)


def _with_ray_device(config: RunConfig) -> RunConfig:
    from momu_dist.train.ray_trainer import ray_device

    return replace(config, train=replace(config.train, device=ray_device(config)))


def _ray_units(config: RunConfig) -> UnitRunner:
    from momu_dist.data.ray_pipeline import map_units
    from momu_dist.train.ray_session import cpus_per_core

    gpus = 1.0 if config.train.device == "cuda" else 0.0
    return lambda units, fn: map_units(units, fn, cpus_per_core(), "encode latents", gpus)


def _resolved(config: RunConfig) -> RunConfig:
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
        tracking=replace(config.tracking, uri=_absolute_sqlite(config.tracking.uri)),
        inputs=section("inputs", config.inputs, ("music_vae", "motion_vae", "init_from")),
    )


def _absolute_sqlite(uri: str) -> str:
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or Path(path).is_absolute() else f"sqlite:///{Path(path).absolute()}"


@contextmanager
def progress_bar(name: str, metrics: Path, total_steps: int) -> Iterator[None]:
    """Show the run's progress by following its metrics file, wherever the workers are."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(name, metrics, total_steps, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(name: str, metrics: Path, total_steps: int, stop: threading.Event) -> None:
    position = metrics.stat().st_size if metrics.is_file() else 0
    with tqdm(total=total_steps, desc=name, unit="step", mininterval=1.0) as bar:
        while True:
            last_round = stop.wait(0.5)
            if metrics.is_file():
                position = min(position, metrics.stat().st_size)  # a restart drops what it will do again
                with metrics.open() as file:
                    file.seek(position)
                    text = file.read()
                whole = text[: text.rfind("\n") + 1]
                position += len(whole.encode())
                for line in whole.splitlines():
                    _show(bar, json.loads(line))
            if last_round:
                return


def _show(bar: tqdm, entry: dict[str, float]) -> None:
    bar.n = int(entry["step"])
    shown = {
        key: f"{entry[key]:.4g}"
        for key in ("total", "val/rec", "val/true", "val/mel_distance", "samples_per_s")
        if key in entry
    }
    if shown:
        bar.set_postfix(shown)
    else:
        bar.refresh()
