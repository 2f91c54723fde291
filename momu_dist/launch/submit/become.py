"""What a job of submitit does first. It imports nothing else of ours, which over a network disk would take a while."""

from __future__ import annotations

import os
import sys


def become(arguments: list[str]) -> None:
    """Replace this process by `python -m ...`; the number of the process stays, handlers of signals go."""
    os.execv(sys.executable, [sys.executable, "-u", "-m", *arguments])
