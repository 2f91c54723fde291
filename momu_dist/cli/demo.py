"""`momu demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from momu_dist.cli.command import Commands, add


def add_demo(commands: Commands) -> None:
    parser = add(
        commands, "demo", "The whole system on a synthetic set: prepare, train, generate, score.", _run
    )
    parser.add_argument("--smoke", action="store_true", help="a few steps a stage, about two minutes")
    parser.add_argument("--out", default=None, help="folder (runs/demo, or runs/demo-smoke)")


def _run(options: argparse.Namespace) -> None:
    from momu_dist.demo import run_demo

    run_demo(Path(options.out or ("runs/demo-smoke" if options.smoke else "runs/demo")), smoke=options.smoke)
