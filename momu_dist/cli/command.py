"""How a command is added to `momu`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], None]
Commands = Any  # argparse's table of sub-commands, which has no public type


def add(commands: Commands, name: str, help: str, run: Command) -> argparse.ArgumentParser:
    """Return the parser of the new command `name`, which calls `run`.

    Its module imports what is heavy inside `run`, so that `momu --help` answers at once.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    return parser


def add_checkpoints(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Let a command take trained models, by path or by their names in the registry."""
    parser.add_argument(
        "--checkpoint",
        "--model",
        action="append",
        required=required,
        help="a run, a folder of runs (of several of a stage the one called as the stage), or a registered model "
        "(models:/NAME@ALIAS, models:/NAME/VERSION); may be repeated",
    )
    add_tracking_uri(parser)


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    """Let a command say where registered models are looked up."""
    parser.add_argument(
        "--tracking-uri",
        help="where models are registered (MLFLOW_TRACKING_URI, else sqlite:///runs/mlflow.db)",
    )


def checkpoint_paths(options: argparse.Namespace) -> list[Path]:
    """Return the folders that `--checkpoint` names."""
    from momu_dist.tracking.registry import resolve

    return [resolve(checkpoint, options.tracking_uri) for checkpoint in options.checkpoint]
