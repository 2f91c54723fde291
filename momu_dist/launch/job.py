"""One attempt of a job: Ray comes up on its nodes, the work runs on it, everything ends, and the queue may have it again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from momu_dist.errors import STOPPED, MomuError, Stopped
from momu_dist.launch.allocation import Allocation
from momu_dist.launch.children import Child
from momu_dist.launch.policy import USER_ERROR, End, failures_after, requeued
from momu_dist.launch.ports import plan
from momu_dist.launch.progress import Progress
from momu_dist.launch.ray_cluster import NodeFailure, RayCluster, kill_wait_s
from momu_dist.launch.sites import Site
from momu_dist.launch.status import Status, job_folder
from momu_dist.launch.work import Work, make_work

FAULT = 1
TEARDOWN_S = 15.0
"""Before SLURM's end of the job, for ending Ray on all nodes."""
POLL_S = 0.1


class Job:
    """The batch script's one command. `run` returns the job's exit code."""

    def __init__(self, allocation: Allocation, site: Site, budget: int) -> None:
        self.allocation = allocation
        self.site = site
        self.budget = budget
        self.folder = job_folder(allocation.submit_dir, allocation.job_id)
        self.temp = f"{site.scratch.rstrip('/')}/momu-{os.getuid()}-{allocation.job_id}"
        self.status = Status(self.folder / "status.json")
        self.cluster: RayCluster | None = None
        self.asked_by: str | None = None
        self.must_end = float("inf")
        self.first_failure: str | None = None
        self.progressed = False
        self._last_lines: deque[str] = deque(maxlen=50)

    def run(self, name: str, arguments: Sequence[str]) -> int:
        """Do the work and return the exit code for SLURM: that of the driver, or of what kept it from running."""
        restart = self.allocation.restart
        self.status.open(self.allocation.job_id, self.allocation.job_name, restart, [name, *arguments])
        again = f", started again ({restart})" if restart else ""
        say(
            f"job {self.allocation.job_id}{again} on {', '.join(self.allocation.nodes)}; status: {self.status.path}"
        )
        with self._signals():
            try:
                code, why = self._attempt(name, arguments)
            except Stopped as stop:
                code, why = STOPPED, str(stop)
            except NodeFailure as failure:
                self.first_failure = str(failure)
                code, why = FAULT, str(failure)
            except (MomuError, OSError) as error:
                code, why = USER_ERROR, str(error)
            finally:
                self._end_cluster()
            return self._finish(code, why)

    def _attempt(self, name: str, arguments: Sequence[str]) -> tuple[int, str]:
        self.status.phase("checks")
        work = make_work(name, arguments, self.site, self.temp)
        if work.done is not None:
            return 0, work.done
        if work.uses_ray:
            self._bring_up(work)
            assert self.cluster is not None
            work = work.on(len(self.allocation.nodes), self.cluster.total("gpus"))
        return self._drive(work) if work.command else self._hold()

    def _bring_up(self, work: Work) -> None:
        ports = plan(self.allocation.job_id, self.allocation.restart)
        self.status.phase("nodes")
        cluster = self.cluster = RayCluster(self.allocation, ports, self.folder, self.temp, self.site.env)
        cluster.start(work.needed, work.staged, kill_wait_s())
        cluster.wait_for("ready", self._check_asked)
        self.status.set(nodes=[{"name": node.name, **(node.facts or {})} for node in cluster.nodes.values()])
        say(f"ports: {ports}")
        self.status.phase("ray")
        cluster.wait_for("joined", self._check_asked)
        cluster.write_address()
        found = ", ".join(f"{cluster.total(kind)} {kind}" for kind in ("cpus", "gpus"))
        say(f"Ray is up on {len(cluster.nodes)} nodes with {found}")
        say(
            f"dashboard: ssh -N -L {ports.dashboard}:127.0.0.1:{ports.dashboard} {self.allocation.head}, then "
            f"http://127.0.0.1:{ports.dashboard}; its token is in {cluster.token}"
        )

    def _drive(self, work: Work) -> tuple[int, str]:
        self.status.phase("workers")
        progress = Progress(work, self.status)
        env = (
            dict(os.environ)
            if self.cluster is None
            else {**self.cluster.env, "RAY_ADDRESS": self.cluster.address}
        )
        driver = Child("driver", work.command, {**env, "PYTHONUNBUFFERED": "1"}, self._hears_driver)
        told: set[str] = set()
        asked = False
        try:
            while driver.code is None:
                if self.asked_by and not asked:
                    asked = True
                    driver.send(signal.SIGUSR2 if work.trains else signal.SIGTERM)
                if time.time() > self.must_end:
                    say("there is no time left to wait for a checkpoint")
                    break
                self._watch_nodes(work, told)
                progress.look()
                time.sleep(POLL_S)
        finally:
            driver.end(0.0)
            progress.look()
            self.progressed = progress.committed
        return self._driver_ended(driver, work)

    def _driver_ended(self, driver: Child, work: Work) -> tuple[int, str]:
        code = driver.code if driver.code is not None else FAULT
        last = next((line for line in reversed(self._last_lines) if line.startswith("error: ")), None)
        why = last or (
            self._last_lines[-1] if self._last_lines else f"the driver ended with exit code {code}"
        )
        if code == 0:
            return 0, f"finished: {why.removeprefix('trained: ')}"
        if code < 0:
            why = f"the driver was ended by {signal.Signals(-code).name}; its last line: {why}"
            code = 128 - code
        elif code != STOPPED:
            self.first_failure = f"driver on {self.allocation.head}"
        return code, why

    def _watch_nodes(self, work: Work, told: set[str]) -> None:
        if self.cluster is None:
            return
        for node in self.cluster.lost():
            if node.name in told or self.asked_by:
                continue
            if not work.elastic or node.name == self.allocation.head:
                raise NodeFailure(f"{node.name} was lost: {self.cluster.failure_of(node)}")
            told.add(node.name)
            say(f"{node.name} was lost ({self.cluster.failure_of(node)}); the training goes on without it")

    def _hold(self) -> tuple[int, str]:
        self.status.phase("holding")
        say("holding Ray for `momu ray-job`; end it by scancel")
        while self.asked_by is None:
            self._watch_nodes(Work(()), set())
            time.sleep(POLL_S)
        return 0, "held until it was told to end"

    def _hears_driver(self, line: str) -> None:
        if line.strip():
            self._last_lines.append(line)
        print(line, flush=True)

    def _end_cluster(self) -> None:
        if self.cluster is not None:
            self.status.phase("ending")
            self.cluster.end(keep_logs=self.first_failure is not None)

    # ------------------------------------------------------------------------------------------ signals and the end

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self._signalled) for number in (signal.SIGUSR2, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, _: object) -> None:
        if self.asked_by is not None:
            return  # SLURM says it more than once
        self.asked_by = signal.Signals(number).name
        state, end = job_facts(self.allocation.job_id)
        now = time.time()
        # No longer running: it is being ended, and killed after KillWait.
        left = end - TEARDOWN_S if state == "RUNNING" else now + max(0.0, kill_wait_s() - 4.0)
        self.must_end = max(now, left)
        os.write(1, f"momu: {self.asked_by} from SLURM: the work saves and stops\n".encode())

    def _check_asked(self) -> None:
        if self.asked_by is not None:
            raise Stopped(f"{self.asked_by} before the work began")

    def _finish(self, code: int, why: str) -> int:
        end = End(
            code,
            why,
            self.asked_by is not None,
            self.progressed,
            self.status.failures,
            self.allocation.restart == 0,
        )
        again, reason = requeued(end, self.budget)
        self.status.set(failures=failures_after(end))
        self.status.phase("ended")
        if again and self.asked_by is not None and job_facts(self.allocation.job_id)[0] != "RUNNING":
            again, reason = False, "SLURM is ending this job and knows what to do with it"
        self._tell_end(code, why, again, reason)  # before SLURM has it again, and ends this process for that
        if again:
            refused = requeue(self.allocation.job_id)
            if not refused:
                time.sleep(30)
            self._tell_end(
                code, why, False, f"SLURM refuses ({refused}); submit it again, it goes on where it is"
            )
        return code

    def _tell_end(self, code: int, why: str, again: bool, reason: str) -> None:
        ended = {"code": code, "why": why, "first_failure": self.first_failure, "requeued": again}
        self.status.set(ended=ended)
        phases = ", ".join(
            f"{name} {seconds:.1f} s" for name, seconds in self.status.facts["phases_s"].items()
        )
        say(f"phases: {phases}")
        if self.first_failure is not None:
            say(f"first to fail: {self.first_failure}; logs: {self.folder}")
        say(why)
        say(
            f"job {self.allocation.job_id} ends with exit code {code}, {'requeued' if again else 'not requeued'}: {reason}"
        )


def say(text: str) -> None:
    """Print a line to the job's log."""
    print(f"momu: {text}", flush=True)


def job_facts(job_id: int) -> tuple[str, float]:
    """Return SLURM's state of a job and when it must end, in seconds of the clock (infinite where it need not)."""
    out = subprocess.run(
        ["scontrol", "show", "job", "-o", str(job_id)], capture_output=True, text=True
    ).stdout
    facts = dict(word.split("=", 1) for word in out.split() if "=" in word)
    try:
        end = datetime.fromisoformat(facts.get("EndTime", "")).timestamp()
    except ValueError:
        end = float("inf")
    return facts.get("JobState", "RUNNING"), end


def requeue(job_id: int) -> str:
    """Put the job back into the queue; return why not, or nothing."""
    done = subprocess.run(["scontrol", "requeue", str(job_id)], capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")
