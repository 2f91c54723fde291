"""One start of a job, from the words of its script on: what it is told, and that its status tells what keeps it from its work."""

from __future__ import annotations

import argparse
import os
from collections import deque
from collections.abc import Sequence

from momu_dist.errors import GIVEN_UP, STOPPED, ConfigError, GivenUp, MomuError, Stopped, without_login
from momu_dist.launch.allocation import forget_other_jobs, read_allocation
from momu_dist.launch.policy import for_the_user
from momu_dist.launch.sbatch import SITE
from momu_dist.launch.scontrol import own_facts
from momu_dist.launch.status import Status, own_status, say


def read_words(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the launcher's own options, and the words for the work; SystemExit after usage or help."""
    parser = argparse.ArgumentParser(
        prog="python -m momu_dist.launch",
        description="What a job script under jobs/ runs.",
        allow_abbrev=False,
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
    return parser.parse_known_args(words)


def attempt(words: Sequence[str], signals: deque[str]) -> int:
    """Do one job's work and return its exit code; `signals` are the names of those that come."""
    # Before all that takes time or may fail: what an older job of this number left must not stand for this one.
    status = own_status(words)
    try:
        return _begin(words, status, signals)
    except OSError as error:
        if for_the_user(error):
            _tell(status, 2, f"error: {error}")
            raise
        fault = GivenUp(f"{error}: a fault that may pass by itself; submit it again")
        _tell(status, GIVEN_UP, f"error: {fault}")
        raise fault from error
    except Stopped as stop:
        _tell(status, STOPPED, str(stop))
        raise
    except MomuError as error:
        _tell(status, GIVEN_UP if isinstance(error, GivenUp) else 2, f"error: {error}")
        raise
    except Exception as error:
        _tell(status, 1, f"{type(error).__name__}: {error}")
        raise


def _tell(status: Status, code: int, why: str) -> None:
    if status.facts["ended"] is None:
        status.end(code, why, requeued=False)


def _begin(words: Sequence[str], status: Status, signals: deque[str]) -> int:
    try:
        options, rest = read_words(words)
    except SystemExit as error:
        # After --help it has code 0, which jobs that wait for this one would take for work that is done.
        given = " ".join(map(without_login, words))
        raise ConfigError(f"{given}: no work can be read from that; see the lines above.") from error
    if options.failure_budget < 0:
        raise ConfigError(f"--failure-budget is {options.failure_budget}, expected at least 0.")
    say(f"site {options.cluster}" if options.cluster else f"no site: {SITE} is not set")
    facts = own_facts(os.environ["SLURM_JOB_ID"], enough=lambda: bool(signals))
    if signals and not facts.state:
        raise Stopped(f"{signals[0]} before the work began")
    allocation = read_allocation(facts)
    forget_other_jobs(facts)
    status.restarted(allocation.restart)
    # They import torch, which takes seconds, and may be what fails.
    from momu_dist.launch.job import Job
    from momu_dist.launch.sites import Site, load_site

    site = load_site(options.cluster) if options.cluster else Site()
    os.environ.update(site.variables())
    return Job(allocation, site, options.failure_budget, status, signals).run(options.work, rest)
