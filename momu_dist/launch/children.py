"""Processes of a job, each in a group of its own: started, listened to, ended by their group and nothing else."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

logger = logging.getLogger(__name__)


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
        """The exit code once it has ended, negative for a signal; its last lines have been heard then."""
        code = self._process.poll()
        if code is not None:
            self._listener.join(2.0)  # a grandchild that lives on may hold the pipe
        return code

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        if self._process.poll() is None:
            self._process.send_signal(number)

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

    def end(self, patience_s: float) -> None:
        """Wait so long for its end, then end its whole group."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._signal_group(number)
            if self._waited(patience_s):
                break
        self._signal_group(signal.SIGKILL)  # what it left behind

    def _waited(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return
