"""How a command is added to `momu`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
