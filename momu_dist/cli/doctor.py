"""`momu doctor`: what would fail in the queue, found before the first job."""

from __future__ import annotations

import argparse

from momu_dist.cli.command import Commands, add
from momu_dist.launch.doctor.checks import add_options

LONGEST_S = 86400.0


def add_doctor(commands: Commands) -> None:
    parser = add(
        commands, "doctor", "Check this machine, or the nodes of a cluster, for what jobs need.", _doctor
    )
    parser.add_argument("--nodes", type=int, help="so many nodes of the site (1); inside a job all of its")
    parser.add_argument(
        "--silent", type=float, default=120.0, metavar="SECONDS", help="how long a node may be silent (120)"
    )
    add_options(parser)


def _doctor(options: argparse.Namespace) -> None:
    """Print the table; SystemExit 1 if anything is wrong."""
    import os
    import shutil
    import sys
    from collections import Counter
    from pathlib import Path

    from momu_dist.errors import ConfigError
    from momu_dist.launch.doctor import nodes as doctor
    from momu_dist.launch.doctor.finding import fold, table

    if options.overrides and not options.config:
        raise ConfigError(
            f"{options.overrides[0].partition('=')[0]}=... sets a value of a config, but no --config is given."
        )
    if options.nodes is not None and options.nodes < 1:
        raise ConfigError(f"--nodes is {options.nodes}, expected at least 1.")
    if not 0 < options.silent <= LONGEST_S:
        raise ConfigError(
            f"--silent is {options.silent:g}, expected more than 0 s and at most {LONGEST_S:g}."
        )
    site, config = None, None
    if options.cluster:
        from momu_dist.launch.sites import load_site

        site = load_site(options.cluster)
    if options.config:
        from momu_dist.config.load import load_config

        config = load_config(options.config, options.overrides)
    place = doctor.where(site, options.nodes, os.environ)
    if site is not None and place.waits:
        from momu_dist.launch.submit.notes import too_many_nodes

        for note in too_many_nodes({**site.options(), "nodes": str(place.count)}):
            print(f"note: {note}", file=sys.stderr)
    named = {name: getattr(options, name) for name in ("cluster", "config")}
    passed = [f"--{name}={value}" for name, value in named.items() if value is not None]
    folders = [Path.cwd(), *([Path(config.out)] if config else [])]
    found = doctor.examine(place, [*passed, *options.overrides], folders, options.silent)
    terminal = sys.stdout.isatty()
    print(f"checked: {place.note}")
    print(table(found, shutil.get_terminal_size().columns if terminal else None, colour=terminal))
    levels = Counter(finding.level for finding, _ in fold(found))
    print(
        f"{levels['wrong']} wrong, {levels['warning']} warning{'s' * (levels['warning'] != 1)}, {levels['fine']} fine"
    )
    if levels["wrong"]:
        raise SystemExit(1)
