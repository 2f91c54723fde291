"""What a job does: a training, a preparation, the service, an evaluation, or nothing but to hold a Ray for others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from momu_dist.config.load import load_config
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.data.latents import latent_fingerprint
from momu_dist.data.manifest import Manifest
from momu_dist.data.ray_pipeline import READER_CPUS
from momu_dist.errors import ConfigError, without_login
from momu_dist.launch.machine import gpus_given
from momu_dist.launch.sites import Site
from momu_dist.serving.settings import ServiceSettings, read_config, settings_from
from momu_dist.tracking import check_uri, waits
from momu_dist.train.build import required_exports
from momu_dist.train.checkpoint import committed_step
from momu_dist.train.dry_run import run_size
from momu_dist.train.folder import RunFolder
from momu_dist.train.inputs import begun_with
from momu_dist.train.run import resolved_inputs


@dataclass(frozen=True)
class Work:
    """One job's work, checked as far as it can be before a node is used."""

    command: tuple[str, ...]
    """The driver; none for a job that only holds a Ray."""
    config: RunConfig | None = None
    trains: bool = False
    total_steps: int | None = None
    needed: tuple[str, ...] = ()
    """Folders that every node must see."""
    written: tuple[Path, ...] = ()
    """Folders that it writes to, each of which must be the same one on every node."""
    staged: tuple[tuple[str, str], ...] = ()
    """What is copied to each node's own disk: from, to."""
    result: Path | None = None
    """Where a preparation, or --only-latents, leaves its files one by one, each whole."""
    done: str | None = None
    """What to say where there is nothing left to do."""
    notes: tuple[str, ...] = ()
    """What to say before it begins."""
    set_by_user: frozenset[str] = field(default_factory=frozenset)
    service: ServiceSettings | None = None
    one_process: bool = False
    """It wants no Ray; nor does a training of strategy `local`."""

    @property
    def folder(self) -> RunFolder | None:
        """Where a training tells how it fares."""
        return RunFolder(self.config) if self.trains and self.config is not None else None

    def reached(self) -> int:
        """Return how far it has come, for good: the step of the newest checkpoint, or the number of finished files."""
        if self.folder is not None:
            return committed_step(self.folder.checkpoints)
        return 0 if self.result is None else sum(1 for _ in self.result.rglob("*.parquet"))

    @property
    def uses_ray(self) -> bool:
        return not self.one_process and (self.config is None or self.config.train.strategy != "local")

    @property
    def workers(self) -> int:
        return 0 if self.config is None else self.config.train.workers

    @property
    def worker_cpus(self) -> float:
        """Logical CPUs of one worker and its reader."""
        return READER_CPUS + (1.0 if self.config is None else self.config.train.worker_cpus)

    @property
    def fewest(self) -> int:
        """Workers without which it cannot go on."""
        return 0 if self.config is None else self.config.train.fewest

    @property
    def elastic(self) -> bool:
        """Whether it goes on without some of its nodes."""
        if self.config is None:
            return not self.command
        return self.trains and self.fewest < self.config.train.usable(self.config.train.workers)

    def on(self, nodes: int, gpus: int) -> Work:
        """Return the work with as many workers as the allocation suggests: one a GPU, or at least one a node.

        Who sets train.workers decides himself. A service has one replica a GPU.
        """
        if self.service is not None:
            return replace(self, command=(*self.command, *_filling(self.service, gpus)))
        if self.config is None or not self.uses_ray or "train.workers" in self.set_by_user:
            return self
        train = self.config.train
        workers = gpus if gpus and train.device != "cpu" else max(train.workers, nodes)
        if workers == train.workers:
            return self
        config = replace(self.config, train=replace(train, workers=workers))
        return replace(self, config=config, command=(*self.command, f"train.workers={workers}"))


def make_work(name: str, arguments: Sequence[str], site: Site, temp: str) -> Work:
    """Return the work that a job script asks for; a mistake in it is a MomuError before any node is used."""
    makers = {
        "train": _training, "prepare": _preparation, "evaluate": _evaluation, "serve": _serving, "hold": _holding
    }  # fmt: skip
    if name not in makers:
        raise ConfigError(f"unknown work {name!r}; valid: {', '.join(makers)}.")
    try:
        return makers[name](arguments, site, temp)
    except SystemExit as error:  # of argparse, which has printed how it is used
        given = " ".join(map(without_login, arguments))
        raise ConfigError(f"{name} {given}: cannot be read; see the lines above.") from error


def _training(arguments: Sequence[str], site: Site, temp: str) -> Work:
    parser = argparse.ArgumentParser(prog="momu_dist.launch train", allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--only-latents", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    given = frozenset(override.partition("=")[0] for override in options.overrides)
    config = load_config(options.config, options.overrides)
    check_uri(config.tracking.uri)
    command = [sys.executable, "-u", "-m", "momu_dist.train", "--config", options.config, *options.overrides]
    if options.only_latents:
        command.append("--only-latents")
    run = RunFolder(config)
    steps = run_size(config).total_steps
    finished = None if options.only_latents or waits(run.path) else run.finished()
    if finished is not None and finished["steps"] >= steps:
        said = (
            f"{config.name} is finished ({finished['steps']} steps): {run.path}; name=... trains another run"
        )
        return Work((), config, True, steps, done=said)
    notes = _check_gpus(config)
    data = Manifest.load(config.data.root)
    latents = _latents(data, config)
    encodes = latents is not None and not (latents / "latents.json").is_file()
    written = [] if options.only_latents else [Path(config.out).absolute()]
    if latents is not None and encodes:
        written.append(latents)
    for folder in written:
        folder.mkdir(parents=True, exist_ok=True)
    staged: tuple[tuple[str, str], ...] = ()
    if site.stage_data and not options.only_latents:
        if config.train.strategy == "local":  # no agent, which copies
            notes.append("stage_data copies nothing for strategy local")
        elif encodes:
            notes.append(
                f"stage_data copies nothing: the latents are encoded first, for all nodes, at {latents}"
            )
        else:
            local = f"{temp}/shards"
            staged = ((str(latents or data.root.absolute()), local),)
            command.append(_override("data.root" if latents is None else "data.latents", local))
    read = (data.root.absolute(), *([] if latents is None or encodes else [latents]))
    needed = tuple(str(folder) for folder in (Path.cwd(), *read, *written))
    result = latents if options.only_latents else None
    return Work(
        tuple(command), config, not options.only_latents, steps, needed, tuple(written), staged, result,
        notes=tuple(notes), set_by_user=given,
    )  # fmt: skip


def _check_gpus(config: RunConfig) -> list[str]:
    """Return what is to be said of GPUs that nothing uses.

    Workers on Ray take the GPUs of the job, and would end in NCCL's words where torch can use none of them.
    """
    given = gpus_given()
    if given and config.train.device == "cpu":
        return [f"{given} GPUs of each node are not used: train.device is cpu"]
    if given and config.train.strategy != "local" and not torch.cuda.is_available():
        raise ConfigError(
            f"SLURM gave this job {given} GPUs a node, but torch {torch.__version__} sees no CUDA device; ask momu doctor, "
            "install a CUDA build of torch (README.md), or set train.device=cpu."
        )
    return []


def _latents(data: Manifest, config: RunConfig) -> Path | None:
    """Where the latents of a run lie on the shared disk; None for one that reads none. Its inputs are checked too."""
    exports = required_exports(begun_with(resolved_inputs(config), RunFolder(config)), data)
    if STAGES[config.stage].reads != "latents":
        return None
    if config.data.latents is not None:
        return Path(config.data.latents).absolute()
    weights = {name: export.sha256 for name, export in exports.items()}
    return data.root.absolute() / "latents" / latent_fingerprint(data, weights)


def _override(key: str, value: str) -> str:
    """A setting for the command line, whatever its text holds."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _preparation(arguments: Sequence[str], site: Site, temp: str) -> Work:
    command = [sys.executable, "-u", "-m", "momu_dist.cli", "prepare", *arguments]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--root")
    parser.add_argument("--out")
    options = parser.parse_known_args(arguments)[0]
    result = Path(options.out).absolute() if options.out else None
    needed = [str(Path.cwd()), *([str(Path(options.root).absolute())] if options.root else [])]
    if result is not None:
        result.mkdir(parents=True, exist_ok=True)
        needed.append(str(result))
    written = () if result is None else (result,)
    return Work(tuple(command), needed=tuple(needed), written=written, result=result)


def _evaluation(arguments: Sequence[str], site: Site, temp: str) -> Work:
    command = (sys.executable, "-u", "-m", "momu_dist.cli", "evaluate", *arguments)
    return Work(command, one_process=True)


def _serving(arguments: Sequence[str], site: Site, temp: str) -> Work:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    config = parser.parse_known_args(arguments)[0].config
    known = [one for one in arguments if one.partition("=")[0] in ServiceSettings.model_fields]
    given, _ = read_config(config, known)
    service = settings_from({"checkpoint": ["of the command"], **given})
    command = (sys.executable, "-u", "-m", "momu_dist.cli", "serve", *arguments)
    return Work(command, service=service, needed=(str(Path.cwd()),))


def _filling(service: ServiceSettings, gpus: int) -> list[str]:
    """The settings by which a service has one replica on each of `gpus`; who sets one of them decides it himself."""
    given = service.model_fields_set
    each = service.gpus if "gpus" in given else 1.0
    if not gpus or not each:
        return []
    filled = {"gpus": each, "replicas": max(1, int(gpus / max(each, 1.0)))}
    return [f"{name}={value:g}" for name, value in filled.items() if name not in given]


def _holding(arguments: Sequence[str], site: Site, temp: str) -> Work:
    if arguments:
        raise ConfigError(f"hold takes no arguments, found {' '.join(arguments)!r}.")
    return Work((), needed=(str(Path.cwd()),))
