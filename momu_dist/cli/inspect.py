"""`momu inspect`."""

from __future__ import annotations

import argparse

from momu_dist.cli.command import Commands, add, add_tracking_uri


def add_inspect(commands: Commands) -> None:
    parser = add(commands, "inspect", "What a prepared set, a run or an export holds.", _run)
    parser.add_argument(
        "folder",
        help="a prepared folder, a run, an export, a folder of runs, or a registered model (models:/...)",
    )
    parser.add_argument("--draw", type=int, metavar="N", help="also draw N clips of a prepared set (none)")
    parser.add_argument("--out", default="runs/inspected", help="folder for the pictures (runs/inspected)")
    add_tracking_uri(parser)


def _run(options: argparse.Namespace) -> None:
    from momu_dist.inference.inspect import draw, inspect
    from momu_dist.tracking.registry import resolve

    folder = resolve(options.folder, options.tracking_uri)
    print(inspect(folder))
    if options.draw is not None:
        print()
        for path in draw(folder, options.draw, options.out):
            print(f"drawn: {path}")
