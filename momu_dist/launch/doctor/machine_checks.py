"""What a machine must have for any job. Each check takes what it judges; beside it stands what reads that here."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import socket
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from momu_dist.launch.doctor.finding import Finding
from momu_dist.launch.doctor.folders import is_network
from momu_dist.launch.ports import END, FIRST, PER_JOB
from momu_dist.launch.ray_start import LEAST_STORE_MB, STORE_SHARE
from momu_dist.train.scratch import SOCKET_CHARACTERS, excess

LOCK = Path(__file__).parents[3] / "requirements.lock"
LOCKED = ("torch", "ray", "deepspeed", "mlflow", "pyarrow")
COMPILED = ("torch", "ray", "pyarrow")
"""Packages with compiled parts: they can be installed and still not load on a machine with an older system."""


def gb(size: float) -> str:
    """Return bytes as "3.2 GB"."""
    value = size / 1e9
    return f"{value:.2g} GB" if value < 10 else f"{value:.0f} GB"


def check_versions(found: Mapping[str, str | None], lock: str) -> Finding:
    """The packages that a job stands on: installed (None: not at all) as `lock`, the text of requirements.lock, says."""
    locked = dict(line.split("==") for line in lock.splitlines() if "==" in line and not line.startswith("#"))
    said = ", ".join([f"Python {platform.python_version()}", *(f"{n} {v}" for n, v in found.items() if v)])
    missing = [name for name, installed in found.items() if installed is None]
    if missing:
        return Finding(
            "versions",
            "wrong",
            f"{said}; not installed: {', '.join(missing)}",
            "run `make setup` in the checkout",
        )
    # A build tag such as +cpu or +cu130 is no other version.
    other = [n for n, v in found.items() if v and n in locked and v.split("+")[0] != locked[n]]
    if other:
        wanted = ", ".join(f"{name} {locked[name]}" for name in other)
        return Finding(
            "versions",
            "warning",
            f"{said}; requirements.lock has {wanted}",
            "run `make setup`, or know that this is not what was tested",
        )
    return Finding("versions", "fine", f"{said}, as requirements.lock says")


def installed() -> dict[str, str | None]:
    def of(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: of(name) for name in LOCKED}


def check_loading(names: Sequence[str] = COMPILED) -> Finding:
    """Whether packages with compiled parts load."""
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            return does_not_load(name, error)
    return Finding("loading", "fine", f"{', '.join(names)} load")


def does_not_load(name: str, error: Exception) -> Finding:
    return Finding(
        "loading",
        "wrong",
        f"{name} does not load ({' '.join(str(error).split())})",
        "make the environment on a node of this kind: remove .venv there and run `make setup`",
    )


def check_interfaces(env: Mapping[str, str], interfaces: Sequence[str]) -> Finding:
    """Whether the interfaces exist that NCCL and gloo are told to use; NCCL takes prefixes, =exact and ^not."""
    said = []
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = env.get(name)
        if not value:
            continue
        if name.startswith("GLOO"):
            lacking = [part for part in value.split(",") if part not in interfaces]
            there = not lacking
        elif value.startswith("^"):
            others = tuple(value[1:].removeprefix("=").split(","))
            there = any(not one.startswith(others) and one != "lo" for one in interfaces)
        else:
            exact, names = value.startswith("="), value.removeprefix("=").split(",")
            there = any(one in names if exact else one.startswith(tuple(names)) for one in interfaces)
        if not there:
            return Finding(
                "interfaces",
                "wrong",
                f"{name} is {value}, this machine has {', '.join(interfaces)}",
                "correct it under `env` of the site",
            )
        said.append(f"{name}={value}")
    if not said:
        return Finding(
            "interfaces",
            "fine",
            "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME are not set: both choose themselves",
        )
    return Finding("interfaces", "fine", f"{', '.join(said)}: there")


def check_address(env: Mapping[str, str], nodes: int, address: str | None) -> Finding:
    """Whether other machines could reach what this one's name stands for; gloo announces that address."""
    if address is None or address.startswith("127."):
        found = "is not known" if address is None else f"is {address}"
        if nodes > 1 and "GLOO_SOCKET_IFNAME" not in env:
            return Finding(
                "address",
                "warning",
                f"the address of this machine's own name {found}",
                "set GLOO_SOCKET_IFNAME under `env` of the site, or workers of different nodes may not find each other",
            )
        return Finding(
            "address", "fine", f"the address of this machine's own name {found}, which nothing needs here"
        )
    return Finding("address", "fine", "this machine's own name has an address in the network")


def own_address() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def check_compiler(compiler: str | None, ninja: str | None, headers: bool) -> Finding:
    """What DeepSpeed wants where it compiles a part of itself; our strategies do not make it."""
    lacking = [
        name
        for name, there in (("a C++ compiler", compiler), ("ninja", ninja), ("Python.h", headers))
        if not there
    ]
    if lacking:
        return Finding(
            "compiler",
            "warning",
            f"no {', no '.join(lacking)}",
            "local and ddp never need it; if a zero strategy says it cannot compile, install g++, ninja and python3-dev",
        )
    return Finding("compiler", "fine", "C++ compiler, ninja and Python.h are there")


def compiler_here() -> tuple[str | None, str | None, bool]:
    ninja = shutil.which(
        "ninja", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++"), ninja, headers


def check_ports(ephemeral: int | None, taken: Sequence[int]) -> Finding:
    """Whether Ray's ports are free, and out of the range (from `ephemeral`) in which the system takes any it likes."""
    span = f"ports {FIRST} to {END - 1}"
    if ephemeral is not None and ephemeral < END:
        return Finding(
            "ports",
            "warning",
            f"jobs take theirs of {span}, and the system gives out any from {ephemeral} on (net.ipv4.ip_local_port_range)",
            f"one may be gone at any moment, and the job then says so; ask the administrators for a range from {END} on",
        )
    if taken:
        shown = ", ".join(map(str, taken[:5])) + (" and more" if len(taken) > 5 else "")
        return Finding(
            "ports",
            "warning",
            f"of {span}, of which each job takes {PER_JOB}, are in use: {shown}",
            "a job that meets one says so and ends; submit it again, it then takes others",
        )
    return Finding("ports", "fine", f"{span} are free")


def check_preemption(mode: str, grace_s: str) -> Finding:
    """Whether a job that SLURM ends for another one would go on, by what the partition says."""
    said = f"PreemptMode={mode}, GraceTime={grace_s}" if mode else "SLURM does not say of the partition"
    if "CANCEL" in mode and grace_s == "0":
        advice = "a job that is preempted ends for good: submit it again, it goes on at its newest checkpoint"
        return Finding("preemption", "warning", said, advice)
    return Finding("preemption", "fine", said)


def ephemeral_start(path: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> int | None:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def check_scratch(scratch: Path, kind: str, least: float = 10e9) -> Finding:
    """A folder that is this machine's own, with room and short enough for the sockets of Ray: one is made."""
    try:
        with tempfile.TemporaryDirectory(prefix="momu-doctor-", dir=scratch) as folder:
            free = shutil.disk_usage(folder).free
            too_many = excess(str(scratch))
            if too_many > 0:
                longest = SOCKET_CHARACTERS + too_many
                return Finding(
                    "scratch",
                    "wrong",
                    f"{scratch} makes paths of Ray's sockets of up to {longest} characters, {SOCKET_CHARACTERS} are allowed",
                    f"set a `scratch` of the site that is {too_many} shorter",
                )
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(f"{folder}/socket")
    except OSError as error:
        return Finding(
            "scratch",
            "wrong",
            f"{scratch} cannot be used ({error.strerror or error})",
            "set `scratch` of the site to a folder on the node's own disk that you may write to",
        )
    said = f"{scratch} ({kind}) can be written, {gb(free)} free"
    if is_network(kind):
        return Finding(
            "scratch",
            "warning",
            said,
            "it is a network filesystem; set `scratch` of the site to the node's own disk",
        )
    if free < least:
        return Finding(
            "scratch", "warning", said, f"free some: Ray spills there, {gb(least)} are little for it"
        )
    return Finding("scratch", "fine", said)


def check_shm(free: float, least: float = 2e9) -> Finding:
    """Room in /dev/shm, where Ray keeps its objects and NCCL and gloo talk within a machine."""
    if free < least:
        return Finding(
            "shared memory",
            "warning",
            f"/dev/shm has {gb(free)} free",
            f"Ray's objects get {STORE_SHARE:.0%} of it, or where that is less than {LEAST_STORE_MB} MiB so much of the disk; "
            "remove what earlier jobs left, or in a container give it more (docker --shm-size)",
        )
    return Finding("shared memory", "fine", f"/dev/shm has {gb(free)} free")


def check_open_files(hard: int) -> Finding:
    """Open files: Ray raises the soft limit to the hard one by itself, and names 4,096 as too few."""
    if hard != resource.RLIM_INFINITY and hard < 8192:
        return Finding(
            "open files",
            "warning",
            f"at most {hard} files may be open (ulimit -Hn)",
            "ask the administrators for 65536 in jobs; with less, connections of Ray may fail",
        )
    return Finding(
        "open files",
        "fine",
        f"{'any number of' if hard == resource.RLIM_INFINITY else hard} files may be open",
    )


def open_files_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
