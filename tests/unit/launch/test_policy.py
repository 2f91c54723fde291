"""What goes back into the queue."""

from __future__ import annotations

import errno
import socket

import pytest

from momu_dist.errors import DataError
from momu_dist.launch.policy import End, failures_after, for_the_user, requeued


@pytest.mark.parametrize(
    ("end", "again", "failures"),
    [
        (End(0, "done"), False, 0),
        (End(0, "done", asked=True), False, 0),  # finished while it was told to stop
        (End(75, "saved", asked=True, progressed=True), True, 0),
        (End(75, "saved", asked=True, progressed=True, failures=3), True, 0),
        (End(75, "stopped before its first step", asked=True), True, 1),
        (End(75, "stopped before its first step", asked=True, failures=3), False, 4),  # its time is too short
        (End(75, "stopped by a file"), False, 1),
        (End(75, "stopped by a file", progressed=True, failures=2), False, 0),
        (End(1, "not saved in time", asked=True), True, 1),
        (End(2, "the disk is full", asked=True), False, 1),
        (End(1, "a node was lost", node_lost=True), True, 1),
        (End(2, "bad config"), False, 1),
        (End(2, "bad config", progressed=True, first=False), False, 1),
        (End(1, "a port is in use"), False, 1),  # before anything worked
        (End(1, "a node was lost", progressed=True), True, 1),
        (End(1, "a node was lost", first=False), True, 1),
        (End(137, "killed", first=False, failures=2), True, 3),
        (End(137, "killed", first=False, failures=3), False, 4),
        (End(137, "killed", first=False, failures=3, progressed=True), True, 1),
    ],
)
def test_an_end_is_requeued_or_not(end: End, again: bool, failures: int) -> None:
    found, why = requeued(end, budget=3)
    assert found is again and why
    assert failures_after(end) == failures


@pytest.mark.parametrize(
    ("error", "mendable"),
    [
        (DataError("no data"), True),
        (FileNotFoundError(errno.ENOENT, "no such file"), True),
        (PermissionError(errno.EACCES, "permission denied"), True),
        (OSError(errno.ENOSPC, "no space left"), True),
        (OSError(errno.ENAMETOOLONG, "file name too long"), True),
        (OSError(errno.ELOOP, "too many levels of symbolic links"), True),
        (OSError(errno.ESTALE, "stale file handle"), False),
        (OSError(errno.EMFILE, "too many open files"), False),
        (OSError(errno.EHOSTDOWN, "host is down"), False),
        (socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution"), False),
        (BlockingIOError(errno.EAGAIN, "resource temporarily unavailable"), False),
        (OSError(errno.EIO, "input/output error"), False),
        (TimeoutError("timed out"), False),
        (KeyError("x"), False),
    ],
    ids=repr,
)
def test_what_a_person_must_mend_and_what_may_pass(error: Exception, mendable: bool) -> None:
    assert for_the_user(error) is mendable
