"""What becomes of a job whose launcher does not answer, seen from one of its nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

from momu_dist.launch.scontrol import cancel, job_facts, node_lost, requeue

ASK_S = 10.0
"""Between two questions to SLURM."""
ORPHAN_S = 1800.0
"""How long it asks. SLURM itself holds a node for lost after its SlurmdTimeout, mostly five minutes."""


def see_to_job(slurm_id: str, restart: int, head: str, answered: Event, say: Callable[[str], None]) -> None:
    """Put a job back into the queue if its launcher is gone with `head`, its first node, and SLURM says so too.

    SLURM does not requeue a job with --no-kill: it would leave it running, without its batch script, until its time is over.
    But the launcher may also wait for a disk, which ends with `answered`, or this node alone be cut off, and the job goes on
    without it.
    """
    until = time.monotonic() + ORPHAN_S
    while time.monotonic() < until:
        job = job_facts(slurm_id)
        if not job.running or (job.state and job.restarts != restart):
            return  # it is being ended, or has begun anew
        if job.state and node_lost(job, head):
            # A job that may not be requeued would hold its other nodes for nothing.
            refused = requeue(slurm_id) if job.requeues else cancel(slurm_id)
            done = "requeued" if job.requeues else "cancelled, as it may not be requeued"
            say(
                f"the first node is gone; the job is {done}{f' once SLURM agrees ({refused})' if refused else ''}"
            )
            if not refused:
                return
        if answered.wait(ASK_S):
            return
