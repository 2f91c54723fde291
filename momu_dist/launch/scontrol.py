"""What SLURM is asked, and told, of jobs and nodes. Nothing here waits without an end."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from momu_dist.errors import ConfigError

TIMEOUT_S = 10.0
QUEUE_S = 30.0
"""The same for the whole queue, which a person waits for."""
ANSWER_S = 600.0
"""How long a job that begins asks a controller that is busy, or that another one takes over from."""
REACH = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"})
"""By these variables programs of SLURM find their cluster, and are let in; its others are of a job, or options."""
_DEFAULTS = ("SQUEUE_", "SINFO_", "SACCT_")
"""So begin variables that programs of SLURM take for options, such as SQUEUE_STATES."""
_FREE = re.compile(r"\b(?:JobName|\w*Comment|Extra|Command|BatchScript|WorkDir|Std(?:In|Out|Err)|MailUser)=")
"""Where a line of a job's record begins to hold what its owner wrote, which may look like any other of its fields."""


@dataclass(frozen=True)
class JobFacts:
    """A job as the controller has it; without a state where the controller does not answer."""

    state: str = ""
    """Such as RUNNING; while it is being ended CANCELLED, PREEMPTED, TIMEOUT or, mostly, COMPLETING.

    SIGNALING is a job that runs: before another signal SLURM sends SIGCONT, and shows this until all nodes have answered.
    """
    end: float = float("inf")
    """When it must end, in seconds of the clock; infinite where it need not, or nobody knows."""
    restarts: int = 0
    """How often it was put back into the queue, from the moment of that on."""
    requeues: bool = True
    """Whether it may be requeued."""
    nodelist: str = ""
    slurm_id: str = ""
    """By which SLURM knows this job and no other: `12_3` for an element of an array, whose number alone may mean all of them."""
    gpus: bool = False
    """Whether it was given any."""
    memory_per: frozenset[str] = frozenset()
    """Of what its memory is counted: NODE, CPU or GPU."""
    reason: str = ""
    """Why it waits or is being ended, such as TimeLimit; None, as a word, where somebody cancelled it."""
    preempted: bool = False
    complaint: str = ""
    """Why the controller does not answer."""

    @property
    def running(self) -> bool:
        """Whether it runs, for all that is known: a controller that is silent for a moment ends no job."""
        return self.state in ("RUNNING", "SIGNALING", "")

    def why_ended(self, restart: int) -> str:
        """Return why SLURM ends its `restart`th start, in words to go on after `it`; empty where it does not, or says nothing."""
        if self.running:
            return ""
        if self.preempted:
            return "was preempted"
        if self.restarts > restart:
            return "was put back into the queue"
        if self.reason == "None":
            return "was cancelled"
        return f"is being ended by SLURM ({self.reason or self.state})"


def job_facts(job: str) -> JobFacts:
    """Return the facts of the job of that number, or of one element of an array (`12_3`)."""
    code, out, error = _asked("scontrol", "show", "job", "-d", job)
    # The number of an array is also that of one of its elements: then all are shown.
    records = re.split(r"\n(?=JobId=)", out)
    record = next((one for one in records if one.startswith(f"JobId={job} ")), records[0])
    record = "\n".join(_FREE.split(line)[0] for line in record.splitlines())
    facts = dict(word.split("=", 1) for word in record.split() if "=" in word)
    if code != 0 or "JobState" not in facts:
        return JobFacts(complaint=error.strip() or f"exit code {code}")
    try:
        end = datetime.fromisoformat(facts.get("EndTime", "")).timestamp()
    except ValueError:
        end = float("inf")
    restarts = facts.get("Restarts", "0")
    ids = re.match(r"JobId=(\d+) (?:ArrayJobId=(\d+) ArrayTaskId=(\d+) )?", record)
    number, array, element = ids.groups() if ids else (job, None, None)
    memory = {"NODE": "MinMemoryNode", "CPU": "MinMemoryCPU", "GPU": "MemPerTres"}
    return JobFacts(
        state=facts["JobState"],
        end=end,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        requeues=facts.get("Requeue") != "0" and facts.get("BatchFlag") != "0",
        nodelist=facts.get("NodeList", ""),
        slurm_id=f"{array}_{element}" if array else number,
        # Such as TRES=cpu=4,gres/gpu=2, where accounting counts them, and JOB_GRES=gpu:2; or a share of one.
        gpus=re.search(r"[TG]RES=\S*\b(gpu|mps|shard)\b", record) is not None,
        memory_per=frozenset(unit for unit, field in memory.items() if facts.get(field, "0") != "0"),
        reason=facts.get("Reason", ""),
        preempted=facts.get("PreemptTime", "None") != "None",
    )


def own_facts(job: str, enough: Callable[[], bool]) -> JobFacts:
    """Return the facts of the job that asks, as soon as the controller answers; without a state where it does not.

    It is asked for ANSWER_S, or until `enough` says so.
    """
    until = time.monotonic() + ANSWER_S
    while not (facts := job_facts(job)).state and not enough() and time.monotonic() < until:
        time.sleep(1.0)
    return facts


def node_lost(job: JobFacts, node: str) -> bool:
    """Return whether SLURM holds a node of a job for lost: it has taken it out of the job, or gets no answer from it."""
    names = _asked("scontrol", "show", "hostnames", job.nodelist)[1].split()
    if names and node not in names:
        return True
    state = re.search(r"\bState=(\S+)", _asked("scontrol", "show", "node", "-o", node)[1])
    # Such as ALLOCATED*, DOWN*+DRAIN, or IDLE+NOT_RESPONDING, by SLURM's version.
    flags = set(re.split(r"\W", state[1].replace("*", "+NOT_RESPONDING+"))) if state else set()
    return not flags.isdisjoint({"DOWN", "NOT_RESPONDING"})


def requeue(job: str) -> str:
    """Put a job back into the queue; return why not, or nothing."""
    return _refusal(*_asked("scontrol", "requeue", job))


def cancel(job: str) -> str:
    """Cancel a job; return why not, or nothing."""
    return _refusal(*_asked("scancel", job))


def _refusal(code: int, _: str, error: str) -> str:
    return "" if code == 0 else (error.strip() or f"exit code {code}")


def hostnames(nodelist: str) -> tuple[str, ...]:
    """Return the names in SLURM's short form, such as node[1-3]."""
    code, out, error = _asked("scontrol", "show", "hostnames", nodelist)
    if code != 0 or not out.split():
        raise ConfigError(f"scontrol cannot read the nodes {nodelist!r} of this job: {error.strip()}.")
    return tuple(out.split())


def kill_wait_s() -> float:
    """Return the seconds from SLURM's SIGTERM to its SIGKILL."""
    for line in _asked("scontrol", "show", "config")[1].splitlines():
        if line.startswith("KillWait"):
            return float(line.split("=")[1].split()[0])
    return 30.0


def preemption(partition: str) -> tuple[str, str]:
    """Return how SLURM takes nodes from a partition's jobs, such as REQUEUE or CANCEL, and the seconds they have then.

    Both are empty where it does not say.
    """
    said = _asked("scontrol", "show", "partition", "-o", partition)[1]
    facts = dict(word.split("=", 1) for word in said.split() if "=" in word)
    return facts.get("PreemptMode", ""), facts.get("GraceTime", "")


def queue(shape: str) -> str | None:
    """Return a line in squeue's format `shape` for each of this user's jobs; None where squeue does not answer."""
    words = ("squeue", "--noheader", f"--user={os.getuid()}", f"--format={shape}")
    code, out, _ = _asked(*words, patience_s=QUEUE_S)
    return out if code == 0 else None


def accounting(jobs: Sequence[str], shape: str) -> str | None:
    """Return a line in sacct's format `shape` for each of these jobs of this user's; None where there is no accounting."""
    words = ("sacct", "--allocations", "--noheader", "--parsable2", f"--user={os.getuid()}")
    code, out, _ = _asked(*words, f"--jobs={','.join(jobs)}", f"--format={shape}")
    return out if code == 0 else None


def partition_sizes() -> dict[str, int]:
    """Return how many nodes each partition has, by its name, with a star behind that of the default one."""
    lines = _asked("sinfo", "--noheader", "--format=%P|%D")[1].splitlines()
    pairs = (line.strip().rpartition("|") for line in lines)
    return {name: int(count) for name, _, count in pairs if name and count.isdecimal()}


def _asked(*command: str, patience_s: float | None = None) -> tuple[int, str, str]:
    """Run a program of SLURM; return its exit code, what it said, and its complaint."""
    # The user's own defaults: they would hide jobs, or show what could not be read.
    env = {name: value for name, value in os.environ.items() if not name.startswith(_DEFAULTS)}
    env["SLURM_TIME_FORMAT"] = "standard"
    patience_s = TIMEOUT_S if patience_s is None else patience_s
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=patience_s, env=env
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr
