"""Processes of a job: each started in a group of its own, listened to, and ended by that group; or all below this one."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

TERM_S = 2.0
"""How long a process may take to end after a signal; one that waits for a disk does not heed SIGKILL either."""
_PR_SET_CHILD_SUBREAPER = 36


class Child:
    """A running process whose output goes, line by line, to `heard`.

    Its standard input stays open until `close`: an agent of a node lives as long as that.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], heard: Callable[[str], None]
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", process_group=0,
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self._listener.start()

    def _listen(self, heard: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Whatever becomes of a line, the next one is read: a full pipe would stop the process.
            try:
                heard(line.rstrip("\n"))
            except Exception:
                logger.exception("a line of %s was lost: %s", self.name, line)

    @property
    def code(self) -> int | None:
        """The exit code once it has ended, negative for a signal.

        What it left behind in its group has been ended then, and its last lines have been heard.
        """
        if self._process.returncode is None and self._has_ended():
            # Before its number is given back: later it may be that of a stranger's group.
            self.signal_group(signal.SIGKILL)
            self._process.wait()
            self._listener.join(TERM_S)  # a grandchild with a group of its own may hold the pipe
        return self._process.returncode

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        if self.code is None:
            os.kill(self._process.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process, which must not have been seen to end, and to those of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def close(self, last_words: str = "") -> None:
        """Close its standard input after `last_words`, which tells an agent to stop."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        with suppress(BrokenPipeError):  # it has ended before
            self._process.stdin.write(last_words)
            self._process.stdin.flush()
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def end_all(children: Iterable[Child], patience_s: float) -> None:
    """Wait so long for the end of all at once; then end the groups of those that are left, with no more patience than that."""
    left = list(children)
    steps = ((None, patience_s), (signal.SIGTERM, min(TERM_S, patience_s)), (signal.SIGKILL, TERM_S))
    for number, seconds in steps:
        left = [child for child in left if child.code is None]
        if number is not None:
            for child in left:
                child.signal_group(number)
        until = time.monotonic() + seconds
        while any(child.code is None for child in left) and time.monotonic() < until:
            time.sleep(0.02)


def adopt_orphans() -> None:
    """Make a child of this process of whatever its children leave behind, so that `end_descendants` finds it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Kill every process below this one."""
    while left := _descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _descendants(root: int) -> list[int]:
    """Return the processes below `root` that have not ended."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    waiting = list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found
