"""`python -m momu_dist.launch WORK ...`: what every job script under jobs/ runs inside its allocation."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence

from momu_dist.errors import exit_code


def noted_signals() -> deque[str]:
    """Return where the names of SLURM's signals are noted from now on; what follows from one is found out by asking SLURM."""
    noted: deque[str] = deque()
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda given, _: noted.append(signal.Signals(given).name))
    return noted


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one job's work; return its exit code."""
    signals = noted_signals()
    # These import torch, which takes seconds in which a signal must not be lost.
    from momu_dist.launch.allocation import read_allocation
    from momu_dist.launch.job import Job, say
    from momu_dist.launch.sites import SITE, Site, load_site

    parser = argparse.ArgumentParser(
        prog="python -m momu_dist.launch", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "work", choices=("train", "prepare", "evaluate", "serve", "hold"), help="what is done in the job"
    )
    parser.add_argument(
        "--cluster", default=os.environ.get(SITE), help=f"a site of configs/cluster (default: ${SITE})"
    )
    parser.add_argument(
        "--failure-budget", type=int, default=3, metavar="N",
        help="attempts in a row that may come no further, before the job is not requeued any more",
    )  # fmt: skip
    options, rest = parser.parse_known_args(arguments)
    code = 0

    def work() -> None:
        nonlocal code
        say(f"site {options.cluster}" if options.cluster else f"no site: {SITE} is not set")
        site = load_site(options.cluster) if options.cluster else Site()
        os.environ.update(site.variables())
        code = Job(read_allocation(), site, options.failure_budget, signals).run(options.work, rest)

    return exit_code(work, "stopped") or code


if __name__ == "__main__":
    sys.exit(main())
