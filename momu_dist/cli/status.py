"""`momu status` and `momu logs`."""

from __future__ import annotations

import argparse
import sys

from momu_dist.cli.command import Commands, add


def add_status(commands: Commands) -> None:
    status = add(commands, "status", "How submitted jobs fare, a line each.", _status)
    status.add_argument("job", nargs="?", help="this job only, and what its folder holds (all)")
    logs = add(commands, "logs", "The log of a submitted job, or of one of its nodes.", _logs)
    logs.add_argument("job", help="the number of a job, as momu status shows it")
    logs.add_argument("--node", help="the node whose log to show (the job's own log)")
    logs.add_argument("--follow", action="store_true", help="go on until the job has ended")


def _status(options: argparse.Namespace) -> None:
    from momu_dist.errors import DataError
    from momu_dist.launch.jobs import JOBS, ask_queue, job_number, known_jobs, status_lines

    queue = ask_queue()
    jobs = known_jobs(queue)
    if options.job is not None:
        number = job_number(options.job, queue)
        jobs = [known for known in jobs if known.job == number]
        if not jobs:
            raise DataError(
                f"no job {options.job} in {JOBS.absolute()} or in the queue; run this where it was submitted."
            )
    if jobs:
        print("\n".join(status_lines(jobs, queue is not None)))
    else:
        print(
            f"No jobs: {JOBS.absolute()} holds none{', and the queue has none of yours' if queue == {} else ''}."
        )
    if options.job is not None:
        for name, value in jobs[0].facts.items():
            if name in ("run", "nodes", "phases_s", "failures") and value:
                shown = ", ".join(node["name"] for node in value) if name == "nodes" else value
                print(f"{name}: {shown}")
    if queue is None:
        print("There is no squeue here (or it does not answer), so only what jobs wrote themselves is known.")


def _logs(options: argparse.Namespace) -> None:
    from momu_dist.launch.jobs import ask_queue, follow, job_number, log_file, read_facts

    job = job_number(options.job, None if options.job.isdigit() else ask_queue())

    def ended() -> bool:
        if not options.follow:
            return True
        queue = ask_queue()
        # A requeued job has ended once and is in the queue again.
        return job not in queue if queue is not None else bool(read_facts(job).get("ended"))

    for text in follow(lambda: log_file(job, options.node), ended, pause_s=3.0):
        sys.stdout.write(text)
        sys.stdout.flush()
