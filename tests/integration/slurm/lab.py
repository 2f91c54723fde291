"""A real SLURM cluster on one machine, for tests: a controller, accounting, and nodes in namespaces of their own.

Each node has its own hostname, address, processes, /tmp and /dev/shm, and runs slurmd. This machine is the login node.
All other folders are one file system that the nodes share, and so are those below /tmp that are named as shared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from lab_config import FOLDERS, FREEZER, SLURMD_PORT, LabConfig, LabError, missing

__all__ = ["Lab", "LabError", "missing"]

NODE_INIT = Path(__file__).with_name("node_init.sh")
_INIT_SLEEP = ["sleep", "2147483647"]
_NUMBERS = range(9, 60)
_LOCKS = Path("/run/lock")
FINAL = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    }
)


class Lab:
    """`with Lab(folder, shared) as lab:` starts a cluster, and ends all that it started.

    folder: where everything of the cluster lies; shared: folders below /tmp that all nodes see; grace_s: GraceTime of
    preemption; kill_wait_s: KillWait; node_timeout_s: SlurmdTimeout; number: the lab's, a free one where None; extra:
    further lines of slurm.conf, of which the last of a kind holds. The folder is emptied of an earlier lab. Should this
    process be killed, the cluster dies with it (so start and power it on in a thread that lives as long), and the next
    lab of that number takes its links and namespaces away.
    """

    def __init__(
        self,
        folder: Path,
        shared: Sequence[Path],
        nodes: int = 2,
        cpus: int = 4,
        memory_mb: int = 8000,
        gpus: int = 0,
        *,
        grace_s: int = 0,
        kill_wait_s: int = 5,
        node_timeout_s: int = 10,
        number: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number, self._lock = _take_number(number)
        self.config = LabConfig(
            folder=folder.resolve(),
            shared=tuple(shared),
            nodes=nodes,
            cpus=cpus,
            memory_mb=memory_mb,
            gpus=gpus,
            grace_s=grace_s,
            kill_wait_s=kill_wait_s,
            node_timeout_s=node_timeout_s,
            number=number,
            extra=tuple(extra),
        )
        self.folder = self.config.folder
        self.nodes = self.config.node_names
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN"))}
        self.env["SLURM_CONF"] = str(self.config.slurm_conf)
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._heard = ""  # what SLURM last said while it was waited for

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # The cluster

    def up(self) -> None:
        config, log = self.config, self.folder / "log"
        self._remove_network()  # that of a lab of this number that was killed
        for name in ("db", *FOLDERS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        config.write()
        self._add_network()
        key, munge = self.folder / "etc" / "munge.key", self.folder / "run"
        if not key.exists():
            self.run("mungekey", "-c", "-k", str(key))
        self._start(
            "munged",
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={config.munge_socket}"),
            *(f"--pid-file={munge / 'munged.pid'}", f"--log-file={log / 'munged.log'}"),
            f"--seed-file={self.folder / 'state' / 'munged.seed'}",
        )
        self._until(config.munge_socket.is_socket, "munged")
        # No grant tables and no port: only who may enter the folder reaches the socket.
        data = config.database_socket.with_name("data")
        data.parent.mkdir(mode=0o700, exist_ok=True)
        data.mkdir(exist_ok=True)
        self._start(
            "mariadbd",
            *(
                "mariadbd",
                "--no-defaults",
                "--user=root",
                f"--datadir={data}",
                f"--socket={config.database_socket}",
            ),
            *(
                f"--pid-file={data.parent / 'pid'}",
                "--skip-networking",
                "--skip-grant-tables",
                "--skip-log-bin",
            ),
            *("--performance-schema=OFF", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-use-native-aio=0"),
        )
        self._until(config.database_socket.is_socket, "mariadbd")
        inside = ("nsenter", f"--net=/run/netns/{config.name}-ctl")
        database = {"MYSQL_UNIX_PORT": str(config.database_socket)}
        self._start("slurmdbd", *inside, "slurmdbd", "-D", env=database)
        self._until(lambda: self._succeeds("sacctmgr", "-n", "list", "cluster"), "slurmdbd")
        if not self.run("sacctmgr", "-nP", "list", "cluster", config.name).stdout.strip():
            self.run("sacctmgr", "-iQ", "add", "cluster", config.name)
        self._start("slurmctld", *inside, "slurmctld", "-D")
        self._until(lambda: self._succeeds("scontrol", "ping"), "slurmctld")
        for node in self.nodes:
            self.power_on(node)
        for node in self.nodes:
            self.wait_node(node, "idle")

    def down(self) -> None:
        for node in self.nodes:
            self.power_off(node)
        for name in reversed(list(self._started)):
            self._stop(name)
        self._remove_network()
        for node in self.nodes:  # groups of a node that was switched off in the middle of a job
            for group, _, _ in os.walk(FREEZER / f"slurm_{node}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(group)
        shutil.rmtree(self.config.database_socket.parent, ignore_errors=True)
        os.close(self._lock)

    def power_on(self, node: str) -> None:
        """Start a node that is off, with an empty /tmp."""
        assert not self._alive(node), f"{node} is on"
        root = self.folder / "nodes" / node
        shutil.rmtree(root, ignore_errors=True)
        (root / "tmp").mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        _ip("-n", f"{self.config.name}-ctl", "link", "set", node, "up")
        self._start(
            node,
            *("nsenter", f"--net=/run/netns/{self.config.name}-{node}"),
            *("unshare", "--fork", "--kill-child=KILL", "--pid", "--mount", "--uts", "--ipc", "--mount-proc"),
            *("bash", str(NODE_INIT), node, str(self.folder), *map(str, self.config.bound())),
        )

    def power_off(self, node: str) -> None:
        """Pull a node's plug: it is off the network first, so no connection is ended, then all of it dies at once."""
        with contextlib.suppress(LabError):
            _ip("-n", f"{self.config.name}-ctl", "link", "set", node, "down")
        self._stop(node)

    def node_state(self, node: str) -> str:
        """Return what the controller takes a node for: `idle`, `mixed`, `allocated`, `down` ..."""
        shown = self.run("sinfo", "-h", "-N", "-p", "main", "-n", node, "-o", "%T").stdout
        return shown.strip().rstrip("*~#!%$@^-+")

    def wait_node(self, node: str, *states: str, timeout: float = 90) -> None:
        self._until(lambda: self.node_state(node) in states, f"{node} {' or '.join(states)}", timeout)

    # Jobs, as a user on the login node

    def run(self, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node and return it with its output; raise LabError where it fails."""
        options = {"env": self.env, "timeout": 120, "stdin": subprocess.DEVNULL, **options}
        done = subprocess.run(command, text=True, capture_output=True, **options)
        if check and done.returncode != 0:
            raise LabError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def sbatch(self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
        """Submit a script (the last of args) with variables added to the environment; return the job's number."""
        options: dict[str, Any] = {"env": {**self.env, **(env or {})}, "cwd": cwd or self.folder}
        return int(self.run("sbatch", "--parsable", *args, **options).stdout.split(";")[0])

    def facts(self, job: int | str) -> dict[str, str]:
        """Return what the controller knows of a job (JobState, Restarts, NodeList, Reason, ...), or of `12_3` of an array."""
        shown = self.run("scontrol", "-o", "show", "job", str(job)).stdout.split()
        return dict(field.split("=", 1) for field in shown if "=" in field)

    def state(self, job: int | str) -> str:
        return self.facts(job)["JobState"]

    def accounting(self, job: int) -> list[tuple[str, str]]:
        """Return state and exit code (`0:0`) of each start of a job, oldest first, as sacct has them."""
        what = ("-X", "-n", "-P", "--duplicates", "-o", "State,ExitCode")
        lines = self.run("sacct", "-j", str(job), *what).stdout.splitlines()
        return [(state.split()[0], code) for state, code in (line.split("|") for line in lines)]

    def exit_code(self, job: int, timeout: float = 30) -> str:
        """Return the exit code (`0:0`) that accounting has for a job that has ended."""
        self._until(lambda: self._ended(job), f"end of job {job} in accounting", timeout)
        return self.accounting(job)[-1][1]

    def wait(self, job: int | str, *states: str, timeout: float = 120) -> str:
        """Wait until a job is in one of the states; raise LabError where it has ended in another."""
        end = time.monotonic() + timeout
        while (state := self.state(job)) not in states:
            if state in FINAL:
                raise LabError(f"job {job} is {state}, wanted was {' or '.join(states)}")
            if time.monotonic() > end:
                raise LabError(f"job {job} is {state} and not {' or '.join(states)} after {timeout} s")
            time.sleep(0.2)
        return state

    def cancel(self, job: int) -> None:
        self.run("scancel", str(job))

    def set_end(self, job: int, seconds_from_now: float) -> None:
        """Move a running job's time limit; SLURM looks at limits every 30 s."""
        end = datetime.now() + timedelta(seconds=seconds_from_now)
        self.run("scontrol", "update", f"JobId={job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")

    def set_limit(self, job: int, minutes: int) -> None:
        """Give a job that runs or waits a time limit; to move the end of one that runs is to change it for later starts too."""
        self.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    # Nodes, seen from inside

    def on_node(self, node: str, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as if logged in on a node."""
        spaces = ("--net", "--pid", "--mount", "--uts", "--ipc")
        return self.run("nsenter", "--target", str(self._init(node)), *spaces, *command, **options)

    def processes(self, node: str) -> list[str]:
        """Return the command lines of all that runs on a node besides SLURM's own and the node's init."""
        return [command for _, command in self._running(node)]

    def give_way(self, node: str, word: str) -> None:
        """Let what runs on a node with `word` in its command line take a tenth of the CPU time of others that want it.

        Where the kernel groups processes by session it shares the time evenly all the same.
        """
        for process, command in self._running(node):
            if word in command:
                with contextlib.suppress(psutil.Error):  # it has ended
                    for thread in process.threads():  # each has a priority of its own; new ones take it over
                        with contextlib.suppress(ProcessLookupError):
                            nice = os.getpriority(os.PRIO_PROCESS, thread.id) + 10
                            os.setpriority(os.PRIO_PROCESS, thread.id, min(nice, 19))

    def listening(self, node: str) -> set[int]:
        """Return the TCP ports on which a node listens, besides slurmd's."""
        ports = set()
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/{self._init(node)}/net/{table}").read_text().splitlines()[1:]
            fields = [line.split() for line in lines]
            ports |= {int(field[1].rsplit(":", 1)[1], 16) for field in fields if field[3] == "0A"}
        return ports - {SLURMD_PORT}

    def files(self, node: str, pattern: str) -> list[str]:
        """Return the paths on a node that fit a pattern below its /tmp (or one that starts with `/`)."""
        root = Path(f"/proc/{self._init(node)}/root")
        fits = pattern.lstrip("/") if pattern.startswith("/") else f"tmp/{pattern}"
        return sorted(f"/{path.relative_to(root)}" for path in root.glob(fits))

    # Within

    def _running(self, node: str) -> list[tuple[psutil.Process, str]]:
        if not self._alive(node):
            return []
        init = self._init(node)
        space, found = os.readlink(f"/proc/{init}/ns/pid"), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.readlink(f"/proc/{process.pid}/ns/pid") != space or process.pid == init:
                    continue
                command, name = process.cmdline(), process.name()
                if process.status() == psutil.STATUS_ZOMBIE or name in {"slurmd", "slurmstepd"}:
                    continue
                if command != _INIT_SLEEP or process.ppid() != init:
                    found.append((process, " ".join(command) or name))
        return found

    def _ended(self, job: int) -> bool:
        runs = self.accounting(job)
        return bool(runs) and runs[-1][0] in FINAL and self.state(job) in FINAL

    def _init(self, node: str) -> int:
        if not self._alive(node):
            raise LabError(f"{node} is off")
        outer = psutil.Process(self._started[node].pid)
        self._until(lambda: bool(outer.children()), f"first process of {node}", 10)
        init: int = outer.children()[0].pid
        return init

    def _alive(self, name: str) -> bool:
        return name in self._started and self._started[name].poll() is None

    def _start(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> None:
        """Start a process that dies with this one; as its pid is ours until we have waited for it, only it is ever ended."""
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._started[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.env, **(env or {})},
                start_new_session=True,
            )

    def _stop(self, name: str) -> None:
        process = self._started.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def _succeeds(self, *command: str) -> bool:
        done = self.run(*command, check=False)
        self._heard = done.stderr.strip()
        return done.returncode == 0

    def _until(self, reached: Callable[[], bool], what: str, timeout: float = 60) -> None:
        end = time.monotonic() + timeout
        while not reached():
            dead = [name for name in self._started if not self._alive(name)]
            if dead or time.monotonic() > end:
                why = f"{', '.join(dead)} ended" if dead else f"not within {timeout} s"
                raise LabError(
                    f"no {what}: {why}; see {self.folder / 'log'}; last heard: {self._heard or 'nothing'}"
                )
            time.sleep(0.1)

    def _add_network(self) -> None:
        """A bridge in the controller's namespace: this machine's firewall has no say, and nothing is forwarded."""
        config = self.config
        ctl = f"{config.name}-ctl"
        _ip("netns", "add", ctl)
        _ip("-n", ctl, "link", "set", "lo", "up")
        _ip("-n", ctl, "link", "add", "br0", "type", "bridge")
        _ip("-n", ctl, "addr", "add", f"{config.controller}/24", "dev", "br0")
        _ip("-n", ctl, "link", "set", "br0", "up")
        _ip("link", "add", config.name, "type", "veth", "peer", "name", "login", "netns", ctl)
        _ip("-n", ctl, "link", "set", "login", "master", "br0", "up")
        _ip("addr", "add", f"{config.login}/24", "dev", config.name)
        _ip("link", "set", config.name, "up")
        for node in self.nodes:
            space = f"{config.name}-{node}"
            _ip("netns", "add", space)
            _ip("-n", ctl, "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", ctl, "link", "set", node, "master", "br0")
            _ip("-n", space, "addr", "add", f"{config.address(node)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "up")

    def _remove_network(self) -> None:
        name = self.config.name
        if Path(f"/sys/class/net/{name}").exists():
            _ip("link", "del", name)
        for line in _ip("netns", "list").splitlines():
            if line.split()[0].startswith(f"{name}-"):
                _ip("netns", "del", line.split()[0])


def _ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], text=True, capture_output=True)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _take_number(wanted: int | None) -> tuple[int, int]:
    """Return a lab's number that no living process has, and the open file whose lock holds it."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    for number in _NUMBERS if wanted is None else (wanted,):
        lock = os.open(_LOCKS / f"mlab{number}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number, lock
        except BlockingIOError:
            os.close(lock)
    raise LabError(
        f"lab {wanted if wanted is not None else 'numbers'}: in use by other processes of this machine"
    )
