"""All checks of one machine. `python -m momu_dist.launch.checks` makes them and prints each as a line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from momu_dist.errors import MomuError, exit_code
from momu_dist.launch import gpu_checks as gpu
from momu_dist.launch import machine_checks as machine
from momu_dist.launch.finding import Finding
from momu_dist.launch.sites import Site, load_site

Check = tuple[str, Callable[[], Finding]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the doctor is asked with, and passes on to every machine."""
    parser.add_argument(
        "--cluster", help="the site: a file of configs/cluster by its name, or a YAML by its path"
    )
    parser.add_argument("--config", help="also check what this run needs: memory, disk, data, tracking")
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes are checked beside each other")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="values that overrule the config's"
    )


def all_checks(options: argparse.Namespace) -> list[Check]:
    """Return the checks of this machine in their order, by name; nothing is checked yet."""
    site = load_site(options.cluster) if options.cluster else Site()
    env = {**os.environ, **site.env}
    nodes = options.nodes or 1
    ephemeral = machine.ephemeral_start()
    first_port = min(20_000, (ephemeral or machine.DEFAULT_EPHEMERAL) - machine.PORTS)
    scratch = Path(site.scratch)
    checks: list[Check] = [
        ("versions", lambda: machine.check_versions(machine.installed(), machine.LOCK.read_text())),
        ("loading", machine.check_loading),
        (
            "gpus",
            lambda: gpu.check_gpus(gpu.see_gpus(), gpu.gpus_given(env), gpu.gpus_wanted(site.sbatch)),
        ),
        (
            "interfaces",
            lambda: machine.check_interfaces(env, [name for _, name in socket.if_nameindex()]),
        ),
        ("address", lambda: machine.check_address(env, nodes, machine.own_address())),
        ("compiler", lambda: machine.check_compiler(*machine.compiler_here())),
        ("ports", lambda: machine.check_ports(ephemeral, machine.taken_ports(first_port), first_port)),
        (
            "scratch",
            lambda: machine.check_scratch(
                scratch, machine.filesystem(scratch.resolve(), machine.read_mounts())[1]
            ),
        ),
        ("shared memory", lambda: machine.check_shm(machine.shm_free())),
        ("open files", lambda: machine.check_open_files(machine.open_files_limit())),
    ]
    return checks + _of_the_run(options, site, nodes)


def _of_the_run(options: argparse.Namespace, site: Site, nodes: int) -> list[Check]:
    from momu_dist.config.load import load_config
    from momu_dist.launch import run_checks as run

    config = load_config(options.config, options.overrides) if options.config else None
    uri = run.tracking_uri(site.tracking_uri, config)

    def memory() -> Finding:
        return run.check_memory(*run.memory_limit(os.environ), config, nodes, gpu.gpu_memory())

    def disk() -> Finding:
        folder = run.existing(Path(config.out if config is not None else "."))
        device, _ = machine.filesystem(folder.resolve(), machine.read_mounts())
        return run.check_disk(folder, shutil.disk_usage(folder).free, run.quota_left(device), config)

    checks: list[Check] = [("memory", memory), ("disk", disk)]
    checks += [
        ("shared folders", lambda folder=folder: run.check_shared(Path(folder), node_name()))  # type: ignore[misc]
        for folder in options.shared
    ]
    if uri is not None:
        checks.append(("tracking", lambda: run.check_tracking(uri, machine.read_mounts())))
    if config is not None:
        checks.append(("data", lambda: run.check_data(config.data.root)))
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


def node_name() -> str:
    """Return this machine's name as SLURM knows it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of JSON as each check begins and ends: node, time, check, finding; the last one says that all is done."""
    parser = argparse.ArgumentParser(prog="python -m momu_dist.launch.checks", description=__doc__)
    add_options(parser)
    parser.add_argument(
        "--shared", action="append", default=[], help="a folder in which the doctor has left its token"
    )
    options = parser.parse_args(arguments)

    def say(**what: object) -> None:
        print(json.dumps({"node": node_name(), "time": time.time(), **what}), flush=True)

    def work() -> None:
        say(check="the program")  # importing what the rest needs takes a while
        try:
            checks = all_checks(options)
        except MomuError as error:
            advice = "it must be the same, and readable, on all nodes"
            say(
                check="the program",
                finding=asdict(Finding("the program", "wrong", str(error).rstrip("."), advice)),
            )
        else:
            for finding in findings(checks, lambda name: say(check=name)):
                say(check=finding.check, finding=asdict(finding))
        say(done=True)

    return exit_code(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
