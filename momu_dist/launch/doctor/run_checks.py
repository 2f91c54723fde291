"""What one run needs of a machine: memory, disk, data, a tracking server, folders that all machines share."""

from __future__ import annotations

import math
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.errors import MomuError
from momu_dist.launch.doctor.finding import Finding
from momu_dist.launch.doctor.folders import existing, filesystem_of, is_network
from momu_dist.launch.doctor.machine_checks import gb
from momu_dist.tracking import URI_VARIABLE, auto_uri, check_uri
from momu_dist.train.dry_run import memory_gb, parameter_counts

_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(machine: int, usable: int, config: RunConfig | None, nodes: int, gpu: int | None) -> Finding:
    """Memory that a job may use, beside what a run's workers need at least; `gpu` is the bytes of one GPU."""
    said = f"{gb(usable)} of memory" + (
        f" of the machine's {gb(machine)}" if usable < 0.98 * machine else ", all of the machine"
    )
    if config is None:
        return Finding("memory", "fine", said)
    each = int(sum(memory_gb(config).values()) * 1e9)
    on_gpu = gpu is not None and config.train.device != "cpu"
    workers = 1 if on_gpu else math.ceil(config.train.usable(config.train.workers) / nodes)
    have, where = (gpu or 0, f"a GPU has {gb(gpu or 0)}") if on_gpu else (usable, said)
    need = f"{workers} worker{'s' * (workers > 1)} of the run need{'s' * (workers == 1)} {gb(workers * each)} before activations"
    if workers * each > have:
        return Finding(
            "memory",
            "wrong",
            f"{where}; {need}",
            "use a zero strategy, more nodes, or ask for more memory (mem of the site)",
        )
    if workers * each > have / 2:
        return Finding(
            "memory",
            "warning",
            f"{where}; {need}",
            "activations may not fit: lower train.micro_batch if they do not",
        )
    return Finding("memory", "fine", f"{where}; {need}")


def checkpoints_size(config: RunConfig) -> int:
    """Return the bytes of all checkpoints that a run has at most at a time: those it keeps and the one being written.

    A parameter of the main network is 4 bytes each as weight, twice in the optimiser and once in the export, which is the
    average; ZeRO keeps a weight twice. One of a discriminator is 12. The frozen networks in the export of a diffusion
    transformer come on top.
    """
    main, *others = parameter_counts(config).values()
    one = main * (20 if config.train.strategy.startswith("zero") else 16) + sum(others) * 12
    return one * (config.train.keep_last + config.train.keep_best + 1)


def check_disk(folder: Path, free: int, quota: int | None, config: RunConfig | None) -> Finding:
    """Room where the runs lie; `quota` is what a quota leaves, None where it is not known."""
    have = min(free, free if quota is None else quota)
    said = f"{folder} has {gb(free)} free, " + (
        "quota not known" if quota is None else f"the quota leaves {gb(quota)}"
    )
    if config is None:
        return Finding("disk", "warning" if have < 1e9 else "fine", said, "free some" if have < 1e9 else "")
    need = checkpoints_size(config)
    said = f"{said}; {config.train.keep_last + config.train.keep_best + 1} checkpoints need about {gb(need)}"
    if need > have:
        return Finding(
            "disk",
            "wrong",
            said,
            "free some, keep fewer (train.keep_last), or set `out` to another filesystem",
        )
    if need > have / 2:
        return Finding("disk", "warning", said, "logs, samples and latents come on top: free some")
    return Finding("disk", "fine", said)


def check_data(root: str) -> Finding:
    """Whether a machine sees the prepared data."""
    try:
        data = Manifest.load(root)
    except MomuError as error:
        return Finding("data", "wrong", str(error).rstrip("."), "all nodes must see it")
    return Finding("data", "fine", f"{root} loads, {data.split('train').num_rows} clips to train on")


def tracking_uri(env: Mapping[str, str], config: RunConfig | None) -> str | None:
    """Return where runs are tracked, with a job's variables `env`; None for nowhere or not known."""
    if config is None:
        return env.get(URI_VARIABLE)
    uri = config.tracking.uri
    return {"none": None, "auto": auto_uri(Path(config.out), env)}.get(uri, uri)


def check_tracking(uri: str, wait_s: float = 5.0, mounts: str | None = None) -> Finding:
    """Whether a tracking server answers this machine, or an sqlite file lies where its locks work."""
    try:
        check_uri(uri)
    except MomuError as error:
        return Finding("tracking", "wrong", str(error).rstrip("."))
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///").split("?")[0])
        kind = filesystem_of(existing(file.parent), mounts)[1]
        if is_network(kind):
            return Finding(
                "tracking",
                "warning",
                f"{file} is an sqlite file on a network filesystem ({kind})",
                "runs that write at one time lock each other out: use an MLflow server (tracking_uri of the site)",
            )
        return Finding("tracking", "fine", f"{file} is an sqlite file on {kind}")
    return _ask(uri, wait_s)


def _ask(uri: str, wait_s: float) -> Finding:
    parts = urlsplit(uri)
    # Never the whole URI: it may hold a password.
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    advice = "start the server, open its port to the nodes, or correct tracking_uri of the site; runs go on without it"
    try:
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(f"{shown}{parts.path.rstrip('/')}/health", timeout=wait_s):
                pass
        else:
            port = parts.port or _DATABASE_PORTS[parts.scheme.split("+")[0]]
            socket.create_connection((parts.hostname or "", port), timeout=wait_s).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            return Finding("tracking", "wrong", f"{shown} answers {error.code} {error.reason}", advice)
        if (
            parts.username
            or "MLFLOW_TRACKING_USERNAME" in os.environ
            or "MLFLOW_TRACKING_TOKEN" in os.environ
        ):
            return Finding("tracking", "fine", f"{shown} answers and asks for a login, which is set")
        return Finding(
            "tracking",
            "warning",
            f"{shown} asks for a login",
            "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    except (OSError, KeyError, ValueError) as error:
        return Finding(
            "tracking", "wrong", f"{shown} does not answer ({getattr(error, 'reason', error)})", advice
        )
    return Finding("tracking", "fine", f"{shown} answers")
