"""`momu serve` as its users start it: a process of its own, with its own Ray, on a port of loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import requests

from momu_dist.client import Client

START_S, END_S = 180.0, 60.0
REPLICA = "ray::ServeReplica:momu:"


class Served:
    """A running service; `restart` ends it and starts it again with the same settings."""

    def __init__(self, folder: Path, settings: list[str], environment: dict[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "service.log"
        self._command = [
            sys.executable, "-m", "momu_dist.cli", "serve", "--port", str(self.port), f"state={folder / 'state'}", *settings,
        ]  # fmt: skip
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Served:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while not Client(self.url).ready():
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < end, self.log.read_text()[-4000:]
            time.sleep(0.2)
        return self

    def tree(self) -> list[psutil.Process]:
        """The service's own processes: the command, Ray's, and the replicas."""
        assert self._process is not None
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def replicas(self, name: str) -> list[psutil.Process]:
        """The processes of a deployment (`api`, `sampler`)."""
        found = []
        for process in self.tree():
            try:
                if process.name() and any(part.startswith(f"{REPLICA}{name}") for part in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit code; nothing of it is left."""
        assert self._process is not None
        everyone = self.tree() if self._process.poll() is None else []
        self._process.send_signal(how)
        code = self._process.wait(END_S)
        if how is signal.SIGKILL:
            for process in everyone[1:]:
                try:
                    process.kill()
                except psutil.Error:
                    continue
        _, left = psutil.wait_procs(everyone, timeout=30)
        assert not left, [process.cmdline() for process in left]
        return code

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self.stop(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(true: Callable[[], Any], seconds: float = 120.0, what: str = "it did not come to pass") -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


def metric(url: str, name: str) -> float:
    """The value of a counter or gauge of the service, summed over its labels."""
    lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))
