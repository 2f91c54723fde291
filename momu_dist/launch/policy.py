"""Whether a job that has ended is put into the queue again: pure functions of what is known at its end."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from momu_dist.errors import STOPPED, MomuError

USER_ERROR = 2
"""The exit code of what a user must mend; see momu_dist.errors."""
_PASSING = {
    None, socket.EAI_AGAIN, errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH, errno.ENFILE, errno.ENOLCK,
    errno.ENOMEM, errno.ENOTCONN, errno.EPIPE, errno.EREMOTEIO, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
"""Faults of the system that pass by themselves, or of which nothing is known, such as a timeout of Python's own."""


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    code: int
    """0 done, 75 stopped and saved, 2 for the user to mend, anything else a fault."""
    why: str
    asked: bool = False
    """SLURM had said that it must end."""
    progressed: bool = False
    """It came further, for good: it committed a checkpoint, or finished a file of what it prepares."""
    node_lost: bool = False
    """A node that had taken part was lost."""
    failures: int = 0
    """Attempts in a row before it that came no further."""
    first: bool = True
    """Nothing of this job had run before."""


def for_the_user(error: Exception) -> bool:
    """Return whether a person must mend it; a disk that is away for a moment, or too many processes, pass by themselves."""
    return isinstance(error, MomuError) or (isinstance(error, OSError) and error.errno not in _PASSING)


def failures_after(end: End) -> int:
    """Return the attempts in a row that came no further, after this end."""
    if end.code == 0 or (end.progressed and (end.asked or end.code == STOPPED)):
        return 0
    return 1 if end.progressed else end.failures + 1


def requeued(end: End, budget: int) -> tuple[bool, str]:
    """Return whether another attempt is made, and why."""
    if end.code == 0:
        return False, "done"
    if end.code == USER_ERROR:
        return False, "another attempt would end the same"
    if end.code == STOPPED and not end.asked:
        return False, "it was told to stop, not by SLURM"
    failures = failures_after(end)
    if failures > budget:
        return False, f"{failures} attempts in a row came no further, the budget is {budget}"
    if end.asked:
        return True, "it was stopped before its end"
    if end.first and not end.progressed and not end.node_lost:
        return (
            False,
            "its first attempt finished nothing, and only what has come further once is tried again by itself",
        )
    return True, f"failure {failures} of at most {budget} in a row"
