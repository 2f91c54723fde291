"""`python -m momu_dist.launch WORK ...`: what every job script under jobs/ runs inside its allocation."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Sequence

from momu_dist.errors import exit_code


def noted_signals() -> deque[str]:
    """Return where the names of SLURM's signals are noted from now on; what follows from one is found out by asking SLURM."""
    noted: deque[str] = deque()
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda given, _: noted.append(signal.Signals(given).name))
    return noted


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one job's work; return its exit code."""
    signals = noted_signals()
    # Imports take seconds in which a signal must not be lost.
    from momu_dist.launch.attempt import attempt, read_words

    words = sys.argv[1:] if arguments is None else arguments
    code = 0

    def work() -> None:
        nonlocal code
        if "SLURM_JOB_ID" not in os.environ:
            read_words(words)  # for who asks for help
        code = attempt(words, signals)

    return exit_code(work, "stopped") or code


if __name__ == "__main__":
    sys.exit(main())
