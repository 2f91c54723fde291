"""`momu promote`."""

from __future__ import annotations

import argparse

from momu_dist.cli.command import Commands, add, add_tracking_uri


def add_promote(commands: Commands) -> None:
    parser = add(commands, "promote", "Give a registered model an alias, by which others load it.", _run)
    parser.add_argument("model", help="NAME (its candidate), NAME@ALIAS or NAME/VERSION")
    parser.add_argument("--alias", default="champion", help="the alias to set (champion)")
    add_tracking_uri(parser)


def _run(options: argparse.Namespace) -> None:
    from momu_dist.tracking.registry import promote

    done = promote(options.model, options.alias, options.tracking_uri)
    before = "new" if done.before is None else f"version {done.before}"
    print(f"{done.name}@{done.alias}: {before} -> version {done.after}")
