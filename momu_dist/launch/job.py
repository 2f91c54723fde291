"""One attempt of a job: Ray comes up on its nodes, the work runs on it, everything ends, and the queue may have it again."""

from __future__ import annotations

import os
import re
import signal
import time
import traceback
from collections import deque
from collections.abc import Sequence

from momu_dist.errors import STOPPED, ConfigError, Stopped
from momu_dist.launch.allocation import Allocation
from momu_dist.launch.children import Child, end_all
from momu_dist.launch.node import KEEP_LOGS
from momu_dist.launch.policy import USER_ERROR, End, failures_after, for_the_user, requeued
from momu_dist.launch.ports import plan
from momu_dist.launch.progress import Progress
from momu_dist.launch.ray_cluster import NodeFailure, RayCluster, forget_secrets, signed
from momu_dist.launch.scontrol import JobFacts, job_facts, kill_wait_s, requeue
from momu_dist.launch.sites import Site
from momu_dist.launch.status import Status, say
from momu_dist.launch.work import Work, make_work
from momu_dist.train.process import GIVEN_AT, process_age_s
from momu_dist.train.scratch import node_folder

FAULT = 1
TEARDOWN_S = 15.0
"""Before SLURM's end of the job, for ending Ray on all nodes."""
HURRIED_END_S = 4.0
"""The same, before SLURM's SIGKILL."""
REQUEUE_S = 600.0
"""How long SLURM is asked to requeue the job, which holds its nodes meanwhile."""
REQUEUE_PAUSE_S = 5.0
POLL_S = 0.1
LOOK_S = 1.0


class Job:
    """The batch script's one command. `run` returns the job's exit code.

    `signals` are the names of those that have come and are not answered yet.
    """

    def __init__(
        self, allocation: Allocation, site: Site, budget: int, status: Status, signals: deque[str]
    ) -> None:
        self.allocation = allocation
        self.site = site
        self.budget = budget
        self.folder = status.path.parent
        self.temp = node_folder(site.scratch, allocation.job_id)
        self.status = status
        self.cluster: RayCluster | None = None
        self.kill_wait_s = kill_wait_s()
        self.asked_by: str | None = None
        self.terminated = False  # by a SIGTERM, which comes also where somebody cancels the job
        self.why_ended = ""
        self.must_end = float("inf")
        self.first_failure: str | None = None
        self.node_lost = False
        self.progressed = False
        self._signals = signals
        self._told: set[str] = set()
        self._last_lines: deque[str] = deque(maxlen=50)

    def run(self, name: str, arguments: Sequence[str]) -> int:
        """Do the work and return the exit code for SLURM: that of the driver, or of what kept it from running."""
        restart = self.allocation.restart
        again = f", started again ({restart})" if restart else ""
        say(
            f"job {self.allocation.slurm_id}{again} on {', '.join(self.allocation.nodes)}; status: {self.status.path}"
        )
        try:
            forget_secrets(self.folder)
            code, why = self._attempt(name, arguments)
        except Stopped as stop:
            code, why = STOPPED, str(stop)
        except NodeFailure as failure:
            self.first_failure = str(failure)
            code, why = FAULT, str(failure)
        except Exception as error:
            if for_the_user(error):
                code, why = USER_ERROR, f"error: {error}"
            else:  # a fault of the launcher, or of its node: the job must still say how it ended
                traceback.print_exc()
                self.first_failure = f"the launcher, on {self.allocation.head}"
                code, why = FAULT, f"{type(error).__name__}: {error}"
        finally:
            if self.cluster is not None:
                self.status.phase("ending")
                self.cluster.end(keep_logs=self.first_failure is not None)
        return self._finish(code, why)

    def _attempt(self, name: str, arguments: Sequence[str]) -> tuple[int, str]:
        self.status.phase("checks")
        work = make_work(name, arguments, self.site, self.temp)
        self.status.set(
            nodes=[{"name": node} for node in self.allocation.nodes],
            run=str(work.folder.path) if work.folder else None,
        )
        if work.done is not None:
            return 0, work.done
        for note in work.notes:
            say(note)
        if not work.one_process:  # an evaluation begins anew each time: SLURM decides how often
            self._check_budget(work.reached())
        self._check_asked()
        if work.uses_ray:
            self._bring_up(work)
            assert self.cluster is not None
            work = work.on(len(self.allocation.nodes), self.cluster.total("gpus"))
        elif len(self.allocation.nodes) > 1:
            what = name if work.config is None else "train.strategy local"
            raise ConfigError(
                f"{what} is one process, the job has {len(self.allocation.nodes)} nodes; submit with -N1."
            )
        return self._drive(work) if work.command else self._hold()

    def _check_budget(self, reached: int) -> None:
        """Refuse an attempt too many. One before it that died without a word, as by SIGKILL, could not count itself."""
        failures = self.status.failures
        if (last := self.status.last) and last.get("ended") is None:
            then = last.get("reached")
            died = End(FAULT, "it died", progressed=then is not None and reached > then, failures=failures)
            failures = failures_after(died)
        self.status.set(reached=reached, failures=failures)
        if failures > self.budget:
            raise ConfigError(
                f"{failures} attempts in a row came no further, the budget is {self.budget}; look for the cause in "
                f"{self.folder}, and submit it again: it goes on where it is."
            )

    def _bring_up(self, work: Work) -> None:
        ports = plan(self.allocation.job_id, self.allocation.restart)
        self.status.phase("nodes")
        cluster = self.cluster = RayCluster(self.allocation, ports, self.folder, self.temp, self.site.env)
        with signed(work.written, self.allocation.job_id) as signs:
            cluster.start(work, signs, self.kill_wait_s)
            cluster.wait_for("ready", self._check_asked)
        self.status.set(nodes=[{"name": node.name, **(node.facts or {})} for node in cluster.nodes.values()])
        say(f"ports: {ports}")
        if work.staged:
            self.status.phase("staging")
            cluster.wait_for("staged", self._check_asked)
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
        if self.cluster is None:
            env = dict(os.environ)
        else:
            env = {**self.cluster.env, "RAY_ADDRESS": self.cluster.address}
        env |= {"PYTHONUNBUFFERED": "1", GIVEN_AT: str(time.time() - process_age_s())}
        driver = Child("driver", work.command, env, self._hears_driver)
        told_driver = False
        look_again = 0.0
        try:
            while driver.code is None:
                # Before SLURM is asked what it means, which may take a part of the time there is to save.
                if (self._signals or self.asked_by) and not told_driver:
                    told_driver = True
                    driver.send(signal.SIGUSR2 if work.trains else signal.SIGTERM)
                self._heed_signals()
                if time.time() > self.must_end:
                    say("there is no time left to wait for a checkpoint")
                    break
                self._watch_nodes(work)
                if time.monotonic() >= look_again:
                    look_again = time.monotonic() + LOOK_S
                    progress.look()
                time.sleep(POLL_S)
        finally:
            end_all([driver], 0.0)
            self.progressed = progress.end()
        return self._driver_ended(driver)

    def _driver_ended(self, driver: Child) -> tuple[int, str]:
        code = driver.code if driver.code is not None else FAULT
        last = self._last_lines[-1] if self._last_lines else "it said nothing"
        why = next((line for line in reversed(self._last_lines) if line.startswith("error: ")), last)
        if code == 0:
            return 0, f"finished: {last.removeprefix('trained: ')}"
        if code < 0:
            why = f"the driver was ended by {signal.Signals(-code).name}; its last line: {last}"
            code = 128 - code
        if code != STOPPED and self.asked_by is None:
            self.first_failure = failing_rank(why) or f"the driver, on {self.allocation.head}"
        return code, why

    def _watch_nodes(self, work: Work) -> None:
        if self.cluster is None or self.asked_by:
            return
        for node in self.cluster.lost():
            if node.name in self._told:
                continue
            self._told.add(node.name)
            node.agent.close(f"{KEEP_LOGS}\n")  # an answer: it must not take the launcher for lost
            self.node_lost = True
            if node.name == self.allocation.head or self.cluster.room_for(work.worker_cpus) < max(
                1, work.fewest
            ):
                raise NodeFailure(f"{node.name} was lost: {node.failure()}")
            if not work.elastic:
                needs_all = ", and train.min_workers is not set" if work.trains else ""
                raise NodeFailure(f"{node.name} was lost{needs_all}: {node.failure()}")
            say(f"{node.name} was lost ({node.failure()}); the work goes on without it")

    def _hold(self) -> tuple[int, str]:
        self.status.phase("holding")
        say("holding Ray for `momu ray-job`; end it by scancel")
        while self.asked_by is None:
            self._heed_signals()
            self._watch_nodes(Work(()))
            time.sleep(POLL_S)
        return 0, "held until it was told to end"

    def _hears_driver(self, line: str) -> None:
        if line.strip():
            self._last_lines.append(line)
        print(line, flush=True)

    # ------------------------------------------------------------------------------------------ signals and the end

    def _heed_signals(self) -> None:
        """Find out what the signals that came mean: how long there is to save."""
        if self.cluster is not None and self.cluster.warned and self.asked_by is None:
            self._signals.append("SIGTERM to its nodes")
        while self._signals:
            name = self._signals.popleft()
            self.terminated |= name == "SIGTERM"
            facts = job_facts(self.allocation.slurm_id)
            # No longer running, for all that is known: it is being ended, and killed after KillWait.
            runs = facts.running and bool(facts.state or not self.terminated)
            left = facts.end - TEARDOWN_S if runs else time.time() + self.kill_wait_s - HURRIED_END_S
            self.must_end = max(time.time(), min(self.must_end, left))
            self.why_ended = facts.why_ended(self.allocation.restart) or self.why_ended
            if self.asked_by is None:
                self.asked_by = name
                because = f", as it {self.why_ended}" if self.why_ended else ""
                say(f"{name} from SLURM{because}: this job is to save and stop")

    def _check_asked(self) -> None:
        self._heed_signals()
        if self.asked_by is not None:
            raise Stopped(f"{self.asked_by} before the work began")

    def _finish(self, code: int, why: str) -> int:
        self._heed_signals()  # one may have come while Ray was ended
        end = End(
            code, why, self.asked_by is not None, self.progressed, self.node_lost, self.status.failures,
            self.allocation.restart == 0,
        )  # fmt: skip
        again, reason = requeued(end, self.budget)
        self.status.set(failures=failures_after(end))
        self.status.phase("ended")
        self.status.end(code, why, self.first_failure)  # SLURM may kill this process while it is asked
        facts = job_facts(self.allocation.slurm_id) if again else JobFacts()
        self.why_ended = facts.why_ended(self.allocation.restart) or self.why_ended
        self._tell_end(code, f"it {self.why_ended}: {why}" if self.why_ended else why)
        if not again:
            self._tell_next(False, reason)
            return code
        if not facts.running:
            taken = facts.restarts > self.allocation.restart  # SLURM requeues what it preempts
            self._tell_next(taken, f"it {self.why_ended}{'' if taken else '; submit it again to go on'}")
            return code
        self._tell_next(None, reason)  # before SLURM has it again, and ends this process for that
        if refused := self._requeue(facts):
            self._tell_next(False, refused)
            return code
        self._tell_next(True, reason)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if "SIGTERM" in self._signals:  # it came before scontrol's answer
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # until SLURM ends it: it must not be taken for one that has ended by itself
        return code

    def _requeue(self, facts: JobFacts) -> str:
        """Put this job back into the queue, asking again while SLURM is busy; return why not, or nothing."""
        until, end = time.time() + REQUEUE_S, facts.end
        refused = f"it says nothing of the job: {facts.complaint}"
        while True:
            # Of one that was cancelled: asked blindly, SLURM would bring it back.
            if facts.state or not self.terminated:
                refused = requeue(self.allocation.slurm_id)
                if not refused:
                    return ""
            next_try = time.monotonic() + REQUEUE_PAUSE_S
            while "SIGTERM" not in self._signals and time.monotonic() < next_try:
                time.sleep(POLL_S)
            facts = job_facts(self.allocation.slurm_id)
            if facts.restarts > self.allocation.restart:
                return ""  # only the answer was lost
            if not facts.running or "SIGTERM" in self._signals:
                return f"it {facts.why_ended(self.allocation.restart) or 'was told to end meanwhile'}"
            end = facts.end if facts.state else end  # limits may be changed
            if not facts.requeues or time.time() > min(until, end - HURRIED_END_S):
                return f"SLURM refuses ({refused}); submit it again"

    def _tell_end(self, code: int, why: str) -> None:
        self.status.end(code, why, self.first_failure)
        phases = ", ".join(
            f"{name} {seconds:.1f} s" for name, seconds in self.status.facts["phases_s"].items()
        )
        say(f"phases: {phases}")
        if self.first_failure is not None:
            say(f"first to fail: {self.first_failure}; logs: {self.folder}")
        if why != self.first_failure:
            say(why)

    def _tell_next(self, again: bool | None, reason: str) -> None:
        """Tell whether SLURM has it again; None while it is asked, which is all that a killed job leaves."""
        ended = {**self.status.facts["ended"], "requeued": again}
        self.status.set(ended=ended)
        words = {True: "requeued", False: "not requeued", None: "asking SLURM to requeue it"}
        say(f"job {self.allocation.slurm_id} ends with exit code {ended['code']}, {words[again]}: {reason}")


def failing_rank(why: str) -> str | None:
    """Return what a driver's last words say of the worker that failed first, such as `rank 1 on node2: ...`."""
    found = re.search(r"\brank \d+( on \S+)?: .*", why)
    return found[0] if found else None
