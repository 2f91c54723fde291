"""`momu status` and `momu logs`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from momu_dist.cli.command import Commands, add

if TYPE_CHECKING:
    from momu_dist.launch.jobs import Known

NEWEST = 20


def add_status(commands: Commands) -> None:
    status = add(commands, "status", "How submitted jobs fare, a line each.", _status)
    status.add_argument("job", nargs="?", help="this job only, and what its folder holds (all)")
    status.add_argument(
        "--all", action="store_true", help=f"also those that ended before the newest {NEWEST} that did"
    )
    logs = add(commands, "logs", "The log of a submitted job, or of one of its nodes.", _logs)
    logs.add_argument("job", help="the number of a job, as momu status shows it")
    logs.add_argument("--node", help="the node whose log to show (the job's own log)")
    logs.add_argument(
        "--follow", action="store_true", help="go on until the job has ended; one that waits is waited for"
    )


def _status(options: argparse.Namespace) -> None:
    from momu_dist.launch.facts import HERE
    from momu_dist.launch.jobs import known_job, known_jobs, status_lines
    from momu_dist.launch.queue import ask_queue, job_number
    from momu_dist.launch.status import JOBS

    queue = ask_queue()
    if options.job is not None:
        known = known_job(job_number(options.job, queue), queue)
        print("\n".join([*status_lines([known], queue is not None), *_details(known)]))
    else:
        jobs, left_out = known_jobs(queue, None if options.all else NEWEST)
        if jobs:
            print("\n".join(status_lines(jobs, queue is not None)))
        else:
            none = ", and the queue has none of yours" if queue == {} else ""
            print(f"No jobs: {JOBS.absolute()} holds none{none}; {HERE}.")
        if left_out:
            print(f"{left_out} jobs that ended before these are left out: momu status --all shows them too.")
    if queue is None:
        print("There is no squeue here (or it does not answer), so only what jobs wrote themselves is known.")


def _details(known: Known) -> list[str]:
    facts, record = known.facts, known.record
    details = {
        "work": shlex.join(facts.work or (record.work if record else ())),
        "submitted": f"{record.submitted:%Y-%m-%d %H:%M:%S}" if record else "",
        "elements": _listed(record.elements) if record else "",
        "run": facts.run,
        "nodes": ", ".join(node.name for node in facts.nodes),
        "phases_s": facts.phases_s,
        "failures": facts.failures,
    }
    return [f"{name}: {value}" for name, value in details.items() if value]


def _listed(elements: Sequence[str]) -> str:
    shown = elements if len(elements) <= 10 else (elements[0], "...", elements[-1])
    return f"{len(elements)}: {', '.join(shown)}" if elements else ""


def _logs(options: argparse.Namespace) -> None:
    from momu_dist.launch.logs import follow, has_ended, job_with_log, log_file, wait_for_log
    from momu_dist.launch.queue import ask_queue

    asked, node = options.job, options.node
    if options.follow:
        job = wait_for_log(asked, node, lambda text: print(text, file=sys.stderr, flush=True))
    else:
        job = job_with_log(asked, node, None if asked.isdecimal() else ask_queue())
    ended = partial(has_ended, job) if options.follow else lambda: True
    for text in follow(partial(log_file, job, node), ended, pause_s=3.0):
        sys.stdout.write(text)
        sys.stdout.flush()
