"""The agent of one node, started by `srun`: checks the node, runs its part of Ray, leaves nothing behind.

It lives as long as its standard input is open, so it ends when the launcher, or the connection to it, does. What it tells the
launcher are lines of JSON after `MARK`; anything else it prints is for the log. Nothing here imports torch or Ray.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from momu_dist.launch.children import adopt_orphans, end_descendants
from momu_dist.launch.doctor.folders import UNSEEN_S, read_anew
from momu_dist.launch.machine import gpus_given, memory_mb
from momu_dist.launch.orphan import see_to_job
from momu_dist.launch.ports import PortPlan, busy_of
from momu_dist.launch.ray_start import ray_command
from momu_dist.launch.scontrol import job_facts
from momu_dist.launch.staging import copy_shards
from momu_dist.train.scratch import sweep, take

MARK = "@momu "
RAY_S = 60.0
"""How long Ray may take to start."""
RAY_STARTS = 2
"""How often it may try: on a node that is busy for a moment it gives itself half a minute."""
HEAD_S = RAY_STARTS * RAY_S
"""How long a node waits for the head's Ray."""
ALIVE_S = 5.0
"""How often a node says that it is there."""
LAUNCHER_S = 10.0
"""How long a node without Ray waits for a word of the launcher, before it asks SLURM."""
END_S = 8.0
"""How long Ray may take to end by itself."""
HURRIED_S = 1.0
"""The same, where SLURM's SIGKILL is near."""
KEEP_LOGS, STOP = "keep logs", "stop"
"""The launcher's last word to an agent."""
OPEN_FILES = 65_536


@dataclass(frozen=True)
class Orders:
    """What an agent is told when it is started."""

    job_id: int
    slurm_id: str
    restart: int
    node: str
    head: str
    """The job's first node."""
    head_ip: str
    cpus: int
    workers: int
    """Training workers that must find room on this node; where it has GPUs, as many as those."""
    worker_cpus: float
    """Logical CPUs that Ray takes for one of them, with its reader."""
    first_port: int
    temp: str
    needed: tuple[str, ...]
    """Folders that must be there: the shared file system."""
    signs: tuple[str, ...]
    """Files that the launcher has left in the folders which the job writes to."""
    staged: tuple[tuple[str, str], ...]
    """What is copied to this node's disk first: from, to (below `temp`)."""
    kept_logs: str
    """Where Ray's logs go if the job failed."""
    kill_wait_s: float
    """From SLURM's SIGTERM to its SIGKILL."""

    @property
    def leads(self) -> bool:
        return self.node == self.head

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Orders:
        tree = json.loads(text)
        lists = {"needed": tuple(tree["needed"]), "signs": tuple(tree["signs"])}
        return cls(**{**tree, **lists, "staged": tuple(map(tuple, tree["staged"]))})


class Refused(Exception):
    """This node cannot take part; the sentence says why."""


class Agent:
    """One node's part of a job."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.temp = Path(orders.temp)
        self.owner: TextIO | None = None
        """What makes `temp` this agent's own."""
        self.ports = PortPlan(orders.first_port)
        self.stopped = threading.Event()
        self.answered = threading.Event()
        self.orphaned = False
        self.hurried = False
        self.keep_logs = False
        self.ray: subprocess.Popen[str] | None = None
        self.started = threading.Event()
        self._last_line = "it said nothing"

    def run(self) -> int:
        """Take part until told to stop; return 0, or 1 after a line that says what went wrong."""
        adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._signalled)
        # Ray keeps many files open and takes the limit as it finds it.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        threading.Thread(target=self._follow_launcher, daemon=True).start()
        code = 0
        try:
            self._check()
            tell(state="ready", ip=self._ip(), **self._resources())
            self._stage()
            tell(state="staged")
            self._start_ray()
            tell(state="joined")
            self._watch()
        except Exception as reason:
            if not isinstance(reason, Refused):  # a fault of the agent, or of what it asks the system for
                traceback.print_exc(file=sys.stdout)
            tell(state="failed", why=str(reason) or type(reason).__name__)
            self.keep_logs = True
            self.orphaned = self.orphaned or not self.stopped.wait(LAUNCHER_S)
            code = 1
        self._clean()
        orders = self.orders
        if self.orphaned and not orders.leads:  # SLURM sees the end of a batch script on a node that lives
            see_to_job(orders.slurm_id, orders.restart, orders.head, self.answered, print_line)
        return code

    def _follow_launcher(self) -> None:
        words = ""
        for line in sys.stdin:
            words = line.strip()
        self.keep_logs = self.keep_logs or words == KEEP_LOGS
        if words:
            self.answered.set()
        else:
            self.orphaned = True  # its last word is missing, so it did not mean to go
        self.stopped.set()

    def _signalled(self, number: int, _: object) -> None:
        """SLURM tells all processes of a job that it will end. Where there is a time of grace, training may still save."""
        if number == signal.SIGTERM:
            threading.Thread(target=self._end_in_time, daemon=True).start()

    def _end_in_time(self) -> None:
        if job_facts(self.orders.slurm_id).running:
            tell(
                warned=True
            )  # preempted with a time of grace, of which the batch script itself may hear nothing
            return
        self.hurried = True
        self.stopped.wait(max(0.5, self.orders.kill_wait_s - HURRIED_S - 2.0))
        self.stopped.set()

    def _check(self) -> None:
        for folder in self.orders.needed:
            if not Path(folder).is_dir():
                raise Refused(
                    f"the folder {folder} is not there; it must lie on a file system that all nodes share"
                )
        for sign in map(Path, self.orders.signs):
            if not self._wait(partial(read_anew, sign), UNSEEN_S):
                raise Refused(
                    f"the folder {sign.parent} is another one than on {self.orders.head}; it must lie on a file system that all "
                    "nodes share"
                )
        sweep(self.temp.parent, self.orders.node)  # of this job too, if an attempt before was killed
        try:
            self.owner = take(self.temp, self.orders.node)
        except FileExistsError as error:
            raise Refused(
                f"{self.temp} is there already and not this node's to remove, but another user's, or that of a node with which "
                "it shares the disk; set another `scratch` for the site, on each node's own disk, or remove it"
            ) from error
        except OSError as error:
            raise Refused(
                f"{self.temp} cannot be made ({error.strerror}); set another `scratch` for the site"
            ) from error
        # For Ray, whose workers are killed and leave theirs. Not by srun's environment: SLURM would make the folder first.
        own = self.temp / "tmp"
        own.mkdir()
        os.environ["TMPDIR"] = str(own)
        taken = busy_of(self.ports)
        if taken:
            shown = ", ".join(map(str, taken[:5])) + (" ..." if len(taken) > 5 else "")
            raise Refused(
                f"port {shown} is in use; the ports of job {self.orders.job_id} are {self.ports.first} to "
                f"{self.ports.workers[1]}: end what listens there, or submit again, a new job has other ports"
            )

    def _stage(self) -> None:
        for source, target in self.orders.staged:
            began = time.monotonic()
            try:
                copy_shards(Path(source), Path(target), self.temp, before_each=self._check_stopped)
            except OSError as error:
                raise Refused(
                    f"{source} cannot be copied to {target} ({error}); unset `stage_data`, or make room"
                ) from error
            print_line(f"copied {source} to {target} in {time.monotonic() - began:.1f} s")

    def _resources(self) -> dict[str, int]:
        gpus = gpus_given()
        # Ray's CPUs are logical. Too few for what runs here would keep training from starting, where it is only slower.
        needed = math.ceil((gpus or self.orders.workers) * self.orders.worker_cpus)
        memory = memory_mb(self.orders.cpus)
        return {"cpus": max(self.orders.cpus, needed), "gpus": gpus, "memory_mb": memory}

    def _ip(self) -> str:
        """The address by which the head reaches this node: the one this node reaches the head from."""
        if self.orders.leads:
            return self.orders.head_ip
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((self.orders.head_ip, self.ports.gcs))
            return str(probe.getsockname()[0])

    def _start_ray(self) -> None:
        address = (self.orders.head_ip, self.ports.gcs)
        if not self.orders.leads and not self._wait(lambda: answers(address), HEAD_S):
            raise Refused(
                f"no Ray answers at {address[0]}:{address[1]} within {HEAD_S:.0f} s, the head's; see its log"
            )
        head = None if self.orders.leads else self.orders.head_ip
        command = ray_command(self.ports, self._ip(), head, self.orders.temp, self._resources())
        for left in reversed(range(RAY_STARTS)):
            self.ray = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", process_group=0,
            )  # fmt: skip
            threading.Thread(target=self._read_ray, daemon=True).start()
            if self._wait(self.started.is_set, RAY_S):
                return
            ended = self.ray.poll()
            why = (
                f"did not start within {RAY_S:.0f} s"
                if ended is None
                else f"ended with exit code {ended} while it started"
            )
            if not left:
                raise Refused(f"Ray {why}: {self._last_line}")
            print_line(f"Ray {why}; once more")
            self._end_processes()

    def _read_ray(self) -> None:
        assert self.ray is not None and self.ray.stdout is not None
        for line in self.ray.stdout:
            if "Ray runtime started" in line:
                self.started.set()
            self._last_line = line.strip() or self._last_line
            print_line(line.rstrip("\n"))

    def _wait(self, reached: Any, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not reached():
            self._check_stopped()
            ended = self.ray is not None and self.ray.poll() is not None
            if ended or time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise Refused("was told to stop")

    def _watch(self) -> None:
        assert self.ray is not None
        told = time.monotonic()
        while not self.stopped.wait(0.2):
            if time.monotonic() - told > ALIVE_S:
                told = time.monotonic()
                tell()
            if self.ray.poll() is not None:
                raise Refused(
                    f"Ray ended with exit code {self.ray.returncode}; its log is kept at {self.orders.kept_logs}"
                )

    def _end_processes(self) -> None:
        if self.ray is not None and self.ray.poll() is None:
            self.ray.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.ray.wait(HURRIED_S if self.hurried else END_S)
        end_descendants()

    def _clean(self) -> None:
        self._end_processes()
        if self.owner is None:
            return
        if self.keep_logs:
            with suppress(OSError, shutil.Error):  # what could not be copied is not worth more than the end
                shutil.copytree(
                    self.temp / "session_latest" / "logs", self.orders.kept_logs, dirs_exist_ok=True
                )
        self.owner.close()  # a network file system keeps what is open
        shutil.rmtree(self.temp, ignore_errors=True)


def tell(**facts: Any) -> None:
    """Tell the launcher."""
    print_line(MARK + json.dumps(facts))


def print_line(text: str) -> None:
    """Print a line as a whole: several threads do. Where nobody listens any more there is still a node to be cleared."""
    with suppress(OSError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def answers(address: tuple[str, int]) -> bool:
    """Return whether somebody accepts connections there."""
    try:
        socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True


def main(arguments: Sequence[str]) -> int:
    return Agent(Orders.read(arguments[0])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
