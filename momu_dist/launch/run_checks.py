"""What one run needs of a machine: memory, disk, data, a tracking server, folders that all machines share."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.errors import MomuError
from momu_dist.launch.finding import Finding
from momu_dist.launch.machine_checks import filesystem, gb, is_network
from momu_dist.tracking import auto_uri, check_uri
from momu_dist.train.dry_run import memory_gb, parameter_counts

TOKEN = "doctor"
"""The file that the doctor leaves in a folder for the machines to read; each writes one of its own name beside it."""

_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_NO_LIMIT = 1 << 60  # version 1 of cgroups says so for none


def memory_limit(env: Mapping[str, str], root: Path = Path("/")) -> tuple[int, int | None]:
    """Return bytes of memory of the machine, and of the allocation: the smallest of its cgroups' and SLURM's limits."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = _cgroup_limits(root)
    per_node, per_cpu = env.get("SLURM_MEM_PER_NODE", ""), env.get("SLURM_MEM_PER_CPU", "")
    cpus = env.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdigit() and int(per_node):
        limits.append(int(per_node) << 20)
    elif per_cpu.isdigit() and int(per_cpu) and cpus.isdigit():
        limits.append(int(per_cpu) * int(cpus) << 20)
    limits = [limit for limit in limits if limit < _NO_LIMIT]
    return machine, min(limits) if limits else None


def _cgroup_limits(root: Path) -> list[int]:
    """Return the memory limits of this process's cgroups and all above them, of both versions."""
    limits = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        folder = top / place.lstrip("/")
        for one in (folder, *folder.parents):
            if not one.is_relative_to(top):
                break
            try:
                limits.append(
                    int((one / ("memory.limit_in_bytes" if controllers else "memory.max")).read_text())
                )
            except (OSError, ValueError):  # no such level here, or "max"
                continue
    return limits


def check_memory(
    machine: int, limit: int | None, config: RunConfig | None, nodes: int, gpu: int | None
) -> Finding:
    """Memory of the allocation, and beside what a run's workers need at least; `gpu` is the bytes of one GPU."""
    usable = min(machine, limit or machine)
    said = f"{gb(usable)} of memory" + (
        f" of the machine's {gb(machine)}" if usable < machine else ", all of the machine"
    )
    if config is None:
        return Finding("memory", "fine", said)
    each = int(sum(memory_gb(config).values()) * 1e9)
    on_gpu = gpu is not None and config.train.device != "cpu"
    workers = 1 if on_gpu else math.ceil(config.train.usable(config.train.workers) / nodes)
    have, where = (gpu or 0, f"a GPU has {gb(gpu or 0)}") if on_gpu else (usable, said)
    need = f"{workers} of its workers need {gb(workers * each)} before activations"
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


def existing(folder: Path) -> Path:
    """Return the nearest folder above that is there: `folder` itself may only be made by the run."""
    folder = folder.absolute()
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def quota_left(device: str) -> int | None:
    """Return the bytes that the user's quota leaves on a device of /proc/mounts; None where `quota` does not say."""
    program = shutil.which("quota")
    if program is None:
        return None
    try:
        answer = subprocess.run([program, "-w"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in answer.stdout.splitlines():
        cells = line.split()
        if len(cells) >= 4 and cells[0] == device:
            used, soft, hard = (
                int(re.sub(r"\D", "", cell) or 0) for cell in cells[1:4]
            )  # KB; a * marks too much
            return max(0, (hard or soft) - used) * 1024 if hard or soft else None
    return None


def check_data(root: str) -> Finding:
    """Whether a machine sees the prepared data."""
    try:
        data = Manifest.load(root)
    except MomuError as error:
        return Finding("data", "wrong", str(error).rstrip("."), "all nodes must see it")
    return Finding("data", "fine", f"{root} loads, {data.split('train').num_rows} clips to train on")


def tracking_uri(own: str | None, config: RunConfig | None) -> str | None:
    """Return where runs are tracked: the site's server, else what the config says; None for nowhere or not known."""
    uri = own or (config.tracking.uri if config is not None else None)
    if uri == "auto" and config is not None:
        return auto_uri(Path(config.out))
    return None if uri == "none" else uri


def check_tracking(uri: str, mounts: str, wait_s: float = 5.0) -> Finding:
    """Whether a tracking server answers this machine, or an sqlite file lies where its locks work."""
    try:
        check_uri(uri)
    except MomuError as error:
        return Finding("tracking", "wrong", str(error).rstrip("."))
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///").split("?")[0])
        kind = filesystem(existing(file.parent).resolve(), mounts)[1]
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
    shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    advice = "start the server, open its port to the nodes, or correct tracking_uri of the site; runs go on without it"
    try:
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=wait_s):
                pass
        else:
            port = parts.port or _DATABASE_PORTS[parts.scheme.split("+")[0]]
            socket.create_connection((parts.hostname or "", port), timeout=wait_s).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            return Finding("tracking", "wrong", f"{shown} answers {error.code} {error.reason}", advice)
        if "MLFLOW_TRACKING_USERNAME" in os.environ or "MLFLOW_TRACKING_TOKEN" in os.environ:
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


def check_shared(folder: Path, node: str, wait_s: float = 20.0) -> Finding:
    """Whether a folder in which the doctor has left its token is the same here; leaves this machine's answer in it.

    Caches of a network filesystem may hide a new file for some seconds.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            token = (folder / TOKEN).read_text()
            (folder / f"node-{node}").write_text(token)
            return Finding(
                "shared folders", "fine", f"{folder.parent} holds what the doctor wrote, and its answer"
            )
        except OSError as error:
            if time.monotonic() > until:
                return Finding(
                    "shared folders",
                    "wrong",
                    f"{folder.parent} is another folder here, or not writable ({error.strerror})",
                    "put the checkout and `out` on a filesystem that all nodes mount at one path",
                )
        time.sleep(0.2)
