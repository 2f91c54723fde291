"""All checks of one machine. `python -m momu_dist.launch.doctor.checks` makes them and prints each as a line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from momu_dist.errors import MomuError, exit_code

# What imports torch is imported below, where a machine on which it does not load can still say so.
from momu_dist.launch import ports
from momu_dist.launch.doctor import folders
from momu_dist.launch.doctor import gpu_checks as gpu
from momu_dist.launch.doctor import machine_checks as here
from momu_dist.launch.doctor.finding import Finding
from momu_dist.launch.machine import gpus_given, memory_mb, shared_memory_mb
from momu_dist.launch.sbatch import SITE
from momu_dist.launch.scontrol import preemption

Check = tuple[str, Callable[[], Finding]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is to be checked: a command line's options that the doctor passes on to every machine."""
    parser.add_argument(
        "--cluster", default=os.environ.get(SITE),
        help=f"the site: a file of configs/cluster by its name, or a YAML by its path ({SITE}, else none)",
    )  # fmt: skip
    parser.add_argument("--config", help="also check what this run needs: memory, disk, data, tracking")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="values that overrule the config's"
    )


def all_checks(options: argparse.Namespace) -> list[Check]:
    """Return the checks of this machine in their order, by name; nothing is checked yet."""
    from momu_dist.config.load import load_config
    from momu_dist.launch.doctor import run_checks as run
    from momu_dist.launch.sites import Site, load_site

    site = load_site(options.cluster) if options.cluster else Site()
    config = load_config(options.config, options.overrides) if options.config else None
    env = {**os.environ, **site.variables()}
    scratch, out = Path(site.scratch), Path(config.out if config is not None else ".")

    def busy() -> list[int]:
        return ports.busy(range(ports.FIRST, ports.END))

    def memory() -> Finding:
        usable = memory_mb(int(os.environ.get("SLURM_CPUS_ON_NODE") or 1)) * 2**20
        return run.check_memory(run.machine_memory(), usable, config, options.nodes, gpu.gpu_memory())

    def gpus() -> Finding:
        unused = config is not None and (config.train.device == "cpu" or config.train.strategy == "local")
        return gpu.check_gpus(gpu.see_gpus(), gpus_given(env), gpu.gpus_wanted(site.options()), unused)

    def disk() -> Finding:
        folder = folders.existing(out)
        quota = folders.quota_left(folders.filesystem_of(folder)[0])
        return run.check_disk(folder, shutil.disk_usage(folder).free, quota, config)

    checks: list[Check] = [
        ("versions", lambda: here.check_versions(here.installed(), here.LOCK.read_text())),
        ("loading", here.check_loading),
        ("gpus", gpus),
        ("interfaces", lambda: here.check_interfaces(env, [name for _, name in socket.if_nameindex()])),
        ("address", lambda: here.check_address(env, options.nodes, here.own_address())),
        ("compiler", lambda: here.check_compiler(*here.compiler_here())),
        ("ports", lambda: here.check_ports(here.ephemeral_start(), busy())),
        ("scratch", lambda: here.check_scratch(scratch, folders.filesystem_of(scratch)[1])),
        ("shared memory", lambda: here.check_shm(shared_memory_mb() * 2**20)),
        ("open files", lambda: here.check_open_files(here.open_files_limit())),
        ("memory", memory),
        ("disk", disk),
    ]
    for folder in options.shared:
        checks.append(("shared folders", partial(folders.check_shared, Path(folder), node_name())))
    partition = str(site.options().get("partition", ""))
    if partition:
        checks.append(("preemption", lambda: here.check_preemption(*preemption(partition))))
    uri = run.tracking_uri(env, config)
    if uri is not None:
        checks.append(("tracking", partial(run.check_tracking, uri)))
    if config is not None:
        checks.append(("data", partial(run.check_data, config.data.root)))
    return checks


def findings(checks: Sequence[Check], begins: Callable[[str], None] = lambda name: None) -> Iterator[Finding]:
    """Yield what each check finds; one that breaks is a finding too, and the others go on."""
    for name, check in checks:
        begins(name)
        try:
            finding = check()
        except Exception as error:  # of a machine nothing can be taken for granted
            finding = Finding(
                name,
                "warning",
                f"could not be checked ({type(error).__name__}: {error})",
                "look there by hand",
            )
        yield replace(finding, check=name)


@contextmanager
def own_caches() -> Iterator[None]:
    """Let what torch keeps in /tmp/torchinductor_<user> go with this process, also where the doctor gives up on it."""
    try:
        folder = tempfile.mkdtemp(prefix="momu-doctor-")
    except OSError:  # the check of the scratch folder says so
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    try:
        yield
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def node_name() -> str:
    """Return this machine's name as SLURM knows it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print JSON as each check begins and ends: node, time, check, finding. The last line says that all is done."""
    parser = argparse.ArgumentParser(prog="python -m momu_dist.launch.doctor.checks", description=__doc__)
    add_options(parser)
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes are checked beside each other")
    parser.add_argument(
        "--shared", action="append", default=[], help="a folder in which the doctor has left its token"
    )
    options = parser.parse_args(arguments)

    def say(**what: object) -> None:
        # In one piece with its newline, or lines of several nodes may run into each other.
        sys.stdout.write(json.dumps({"node": node_name(), "time": time.time(), **what}) + "\n")
        sys.stdout.flush()

    @own_caches()
    def work() -> None:
        say(check="program")
        try:
            checks = all_checks(options)
        except MomuError as error:
            checks = [("program", partial(Finding, "program", "wrong", str(error).rstrip(".")))]
        except (ImportError, OSError) as error:
            checks = [("program", partial(here.does_not_load, "the program", error))]
        for finding in findings(checks, lambda name: say(check=name)):
            say(check=finding.check, finding=asdict(finding))
        say(done=True)

    return exit_code(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
