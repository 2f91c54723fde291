"""`momu doctor`: makes the checks on this machine, or on the nodes of a job, and says what is wrong before the queue does."""

from __future__ import annotations

import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from momu_dist.errors import ConfigError
from momu_dist.launch.allocation import per_node
from momu_dist.launch.doctor.finding import Finding
from momu_dist.launch.doctor.folders import UNSEEN_S, not_seen, tokens_in
from momu_dist.launch.sbatch import JOB
from momu_dist.launch.scontrol import hostnames
from momu_dist.launch.srun import srun, step_env

if TYPE_CHECKING:  # it imports torch; the doctor must also work where that is what fails
    from momu_dist.launch.sites import Site

CLOCK_WARNING_S, CLOCK_WRONG_S = 2.0, 30.0
LONGEST_JOB_MIN = 10
NO_NODES = "Unable to allocate resources"  # with which srun begins to say why

_NOT_FOR_SRUN = ("time", "signal")  # of a job that ends in minutes


@dataclass
class Answer:
    """What came from one machine; `offset_s` is how far its clock is ahead (the message's way counts as behind)."""

    findings: list[Finding] = field(default_factory=list)
    at: str = ""  # the check that has begun
    done: bool = False
    offset_s: float = float("-inf")


Answers = dict[str, Answer]


@dataclass(frozen=True)
class Where:
    """Which machines are checked: the command in front of the program (none: this machine), and who should answer."""

    prefix: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()  # names; empty where SLURM chooses
    count: int = 1
    waits: bool = False  # in the queue first
    note: str = ""


def where(site: Site | None, nodes: int | None, env: Mapping[str, str]) -> Where:
    """Return which machines to check: a job's, those that srun gives for a site, or this one."""
    found = shutil.which("srun", path=env.get("PATH"))
    if "SLURM_JOB_ID" in env and found:
        names = hostnames(env.get("SLURM_JOB_NODELIST", ""))
        if nodes is not None and nodes != len(names):
            raise ConfigError(
                f"--nodes {nodes} in job {env['SLURM_JOB_ID']}, which has {len(names)} nodes; leave --nodes out."
            )
        # As many as the launcher gives to its agents, where all nodes have them.
        cpus = min(per_node(env.get("SLURM_JOB_CPUS_PER_NODE", f"1(x{len(names)})"), len(names)))
        prefix = srun(len(names), cpus, "--overlap", "--no-kill")
        return Where(tuple(prefix), names, len(names), note=f"the nodes of job {env['SLURM_JOB_ID']}")
    if site is not None and found:
        options = [
            f"--{option}" + ("" if value is True else f"={value}")
            for option, value in site.options().items()
            if option not in _NOT_FOR_SRUN
        ]
        count = nodes or 1
        job = ("--no-kill", f"--time={LONGEST_JOB_MIN}", "--job-name=momu-doctor", *options)
        asked = srun(count, int(JOB["cpus-per-task"]), *job)
        return Where(
            tuple(asked), (), count, waits=True, note=f"{count} node{'s' * (count > 1)} that SLURM chooses"
        )
    if nodes not in (None, 1):
        raise ConfigError(
            f"--nodes {nodes}, but "
            + (
                "no --cluster says what to ask SLURM for."
                if found
                else "there is no srun here to reach other machines by."
            )
        )
    why = "inside no job and with no --cluster" if found else "there is no SLURM here"
    return Where(note=f"this machine only ({why})")


def examine(
    place: Where, options: Sequence[str], folders: Sequence[Path], silent_s: float
) -> dict[str, list[Finding]]:
    """Return what the checks find on every machine; `options` are those of `launch.checks`, `folders` must be shared.

    A machine that is silent for `silent_s` is wrong, and what it was doing is named. In a queue the time begins with
    the first sign of life of any.
    """
    with tokens_in(folders if place.prefix else ()) as tokens:
        shared = [text for token in tokens for text in ("--shared", str(token))]
        program = (
            sys.executable,
            "-m",
            "momu_dist.launch.doctor.checks",
            *shared,
            "--nodes",
            str(place.count),
            *options,
        )
        if place.waits:
            print(f"asking SLURM: {shlex.join(place.prefix)} (Ctrl-C gives up)", file=sys.stderr)
        answers, complaint, ended = _ask((*place.prefix, *program), place, silent_s)
        found = {node: list(answer.findings) for node, answer in answers.items()}
        until = time.monotonic() + UNSEEN_S
        for node, answer in answers.items():
            if place.prefix:
                found[node].append(clock_finding(answer.offset_s))
                found[node] += not_seen(node, answer.findings, tokens, until)
            if not answer.done:
                found[node].append(_unfinished(answer.at, None if ended else silent_s, complaint))
    if place.waits and not answers and NO_NODES in complaint:
        return {"SLURM": [_no_nodes(complaint)]}
    silent = [node for node in place.nodes if node not in answers]
    silent += [f"silent{n + 1}" for n in range(place.count - len(answers) - len(silent))]
    for node in silent:
        found[node] = [_unfinished("", None if ended else silent_s, complaint)]
    return with_unlike_versions(found)


def _unfinished(at: str, waited_s: float | None, complaint: str) -> Finding:
    """Of a machine that did not come to the end: `waited_s`, or None where the command that reaches it ended by itself."""
    said = f"; srun says: {complaint}" if complaint else ""
    what = f"stopped or hung in the check of {at}" if at else "does not answer"
    advice = "look at the node with `sinfo -R` or `scontrol show node`, or leave it out (sbatch --exclude)"
    return Finding(
        "answer", "wrong", f"{what}{'' if waited_s is None else f', waited {waited_s:g} s'}{said}", advice
    )


def _no_nodes(complaint: str) -> Finding:
    what = f"it gives no nodes; srun says: {complaint}"
    advice = "correct sbatch options of the site, such as the partition or the account; `sinfo` shows what there is"
    return Finding("answer", "wrong", what, advice)


def _ask(command: Sequence[str], place: Where, silent_s: float) -> tuple[Answers, str, bool]:
    """Return the answers, the end of what the command said on stderr, and whether it ended by itself."""
    answers: Answers = {}
    ended = False
    lines: queue.Queue[tuple[float, str] | None] = queue.Queue()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            env=step_env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        stdout = process.stdout
        assert stdout is not None

        def read() -> None:
            for line in stdout:
                lines.put((time.time(), line))
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            while sum(answer.done for answer in answers.values()) < place.count:
                # One that still speaks keeps the others' time running: checks themselves have limits.
                try:
                    item = lines.get(timeout=None if place.waits and not answers else silent_s)
                except queue.Empty:
                    break
                if item is None:
                    ended = True
                    break
                _hear(answers, *item)
        finally:
            _end(process)
        errors.seek(0)
        said = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return answers, " / ".join(said[-2:])[:300], ended


def _hear(answers: Answers, arrived: float, line: str) -> None:
    try:
        record = json.loads(line)
        node, sent = record["node"], record["time"]
    except (ValueError, KeyError, TypeError):
        return  # what a prolog or a shell of the site prints
    answer = answers.setdefault(node, Answer())
    answer.offset_s = max(answer.offset_s, sent - arrived)
    answer.done = answer.done or "done" in record
    answer.at = record.get("check", answer.at)
    if "finding" in record:
        answer.findings.append(Finding(**record["finding"]))


def _end(process: subprocess.Popen[str]) -> None:
    """End the command and all it has started; srun passes TERM on to the nodes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            process.wait(timeout=0.5 if number == signal.SIGTERM else 5)
            return
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
    process.wait()


def clock_finding(offset_s: float) -> Finding:
    """A machine's clock beside this one's; a message's way of some tenths of a second looks like a clock behind."""
    off = abs(offset_s)
    if off <= CLOCK_WARNING_S:
        return Finding("clock", "fine", "agrees with this machine's")
    direction = "ahead of" if offset_s > 0 else "behind"
    return Finding(
        "clock",
        "wrong" if off > CLOCK_WRONG_S else "warning",
        f"{off:.0f} s {direction} this machine's",
        "ask the administrators to mend time synchronisation (chrony); logs and logins depend on it",
    )


def with_unlike_versions(found: Mapping[str, list[Finding]]) -> dict[str, list[Finding]]:
    """Return the findings, with one more where the machines do not have the same packages."""
    said = {
        node: finding.what for node, all_ in found.items() for finding in all_ if finding.check == "versions"
    }
    if len(set(said.values())) > 1:
        unlike = Finding(
            "versions",
            "wrong",
            "the nodes have different packages",
            "let all use one checkout with one .venv",
        )
        return {node: [*findings, *([unlike] if node in said else [])] for node, findings in found.items()}
    return dict(found)
