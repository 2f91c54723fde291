"""What a SLURM cluster on one machine is made of: the names, addresses and configuration files of its nodes and daemons."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Debian's packages, and the programs of them that a lab calls.
PACKAGES = {
    "slurmctld": ("slurmctld",),
    "slurmd": ("slurmd",),
    "slurm-client": ("sbatch", "scontrol", "sinfo", "squeue", "srun", "scancel", "sacct", "sacctmgr"),
    "munge": ("munged", "mungekey"),
    "iproute2": ("ip",),
    "slurmdbd": ("slurmdbd",),
    "mariadb-server-core": ("mariadbd",),
    "util-linux": ("nsenter", "unshare", "setpriv"),
}
FOLDERS = ("etc", "run", "log", "state", "spool", "nodes", "dev")
SLURMD_PORT = 6818
FREEZER = Path("/sys/fs/cgroup/freezer")
LONGEST_SOCKET = 100  # a unix socket's path has at most 107 characters


class LabError(Exception):
    """The lab cannot start, or something in it did not go as wanted."""


def missing() -> str | None:
    """Return a sentence that says why no lab can be started here, or None."""
    if os.geteuid() != 0:
        return "a SLURM lab needs root: each of its nodes lives in namespaces of its own"
    absent = [
        package
        for package, programs in PACKAGES.items()
        if any(shutil.which(name) is None for name in programs)
    ]
    if absent:
        return f"a SLURM lab needs Debian packages that are not installed: {' '.join(absent)}"
    tried = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount", "--net", "--uts", "--ipc", "true"],
        capture_output=True,
        text=True,
    )
    if tried.returncode != 0:
        return f"a SLURM lab needs namespaces, which this machine does not allow: {tried.stderr.strip()}"
    return None


@dataclass(frozen=True)
class LabConfig:
    """The settings of a lab; `number` tells labs on one machine apart, in their names and addresses."""

    folder: Path
    shared: tuple[Path, ...]
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    grace_s: int
    kill_wait_s: int
    node_timeout_s: int
    number: int
    extra: tuple[str, ...]

    @property
    def name(self) -> str:
        """The cluster's name, that of the login node's link, and the prefix of the namespaces."""
        return f"mlab{self.number}"

    @property
    def network(self) -> str:
        """A /24 inside this machine: .1 the controller, .2 the login node, .11 node1, .12 node2 ..."""
        return f"10.177.{self.number}"

    @property
    def controller(self) -> str:
        return f"{self.network}.1"

    @property
    def login(self) -> str:
        return f"{self.network}.2"

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"node{index}" for index in range(1, self.nodes + 1))

    def address(self, node: str) -> str:
        return f"{self.network}.{10 + int(node.removeprefix('node'))}"

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "run" / "munge.socket"

    @property
    def database_socket(self) -> Path:
        return self.folder / "db" / "sock"

    def bound(self) -> list[Path]:
        """The shared folders below /tmp, which every node's own /tmp would hide; none lies in another."""
        below = sorted({path.resolve() for path in (*self.shared, self.folder)})
        below = [path for path in below if path.is_relative_to("/tmp")]
        return [
            path for path in below if not any(path.is_relative_to(other) for other in below if other != path)
        ]

    def write(self) -> None:
        """Write all files that the daemons and nodes read."""
        if len(str(self.munge_socket)) > LONGEST_SOCKET:
            raise LabError(
                f"the lab's folder {self.folder} has too long a path for a unix socket: use a shorter one"
            )
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        etc = self.folder / "etc"
        (etc / "resolv.conf").write_text("")  # a foreign name fails at once
        (etc / "hosts").write_text(self._hosts())
        (etc / "cgroup.conf").write_text("ConstrainCores=no\n")
        (etc / "gres.conf").write_text(self._gres())
        self.slurm_conf.write_text(_lines(self._slurm()))
        database = etc / "slurmdbd.conf"
        database.touch(mode=0o600)
        database.write_text(_lines(self._slurmdbd()))

    def _hosts(self) -> str:
        hosts = {"ctl": self.controller, f"{socket.gethostname().split('.')[0]} login": self.login}
        hosts |= {node: self.address(node) for node in self.node_names}
        return "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in hosts.items())

    def _gres(self) -> str:
        """GPUs that are not there: device nodes that read like /dev/null (plain files would set no CUDA_VISIBLE_DEVICES)."""
        files = [self.folder / "dev" / f"gpu{index}" for index in range(self.gpus)]
        for path in files:
            if not path.exists():
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        listed = ",".join(map(str, files))
        return "".join(
            f"NodeName={node} Name=gpu Type=fake File={listed}\n" for node in self.node_names if files
        )

    def _slurm(self) -> Sequence[str]:
        folder, gpus = self.folder, f" Gres=gpu:fake:{self.gpus}" if self.gpus else ""
        host = socket.gethostname().split(".")[0]
        return (
            f"ClusterName={self.name}",
            f"SlurmctldHost={host}({self.controller})",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            # cred_expire is also how long a requeued job waits before it starts again; 120 s by default.
            f"AuthInfo=socket={self.munge_socket},cred_expire=5",
            f"StateSaveLocation={folder}/state",
            f"SlurmctldPidFile={folder}/run/slurmctld.pid",
            f"SlurmctldLogFile={folder}/log/slurmctld.log",
            "SlurmdPidFile=/run/slurmd.pid",
            f"SlurmdPort={SLURMD_PORT}",
            f"SlurmdLogFile={folder}/log/slurmd.%n.log",
            f"SlurmdSpoolDir={folder}/spool/%n",
            # Nodes may claim more than the machine has.
            "SlurmdParameters=config_overrides",
            # As on most clusters. Without cgroups (version 1's freezer) by parents, where a child in a session of its own
            # outlives its job, and srun is told to end, and ends its step, before the launcher can.
            f"ProctrackType=proctrack/{'cgroup' if os.access(FREEZER / 'cgroup.procs', os.W_OK) else 'linuxproc'}",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherFrequency=5",
            "AccountingStorageType=accounting_storage/slurmdbd",
            f"AccountingStorageHost={self.controller}",
            # With auth/munge this is the socket of the munged to use.
            f"AccountingStoragePass={self.munge_socket}",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=2",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "DefMemPerCPU=1000",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "MpiDefault=none",
            "ReturnToService=2",
            # How long the controller remembers jobs that have ended.
            "MinJobAge=3600",
            "SlurmctldTimeout=30",
            f"SlurmdTimeout={self.node_timeout_s}",
            f"KillWait={self.kill_wait_s}",
            *(("GresTypes=gpu", "AccountingStorageTRES=gres/gpu") if self.gpus else ()),
            f"NodeName=DEFAULT CPUs={self.cpus} RealMemory={self.memory_mb}{gpus} State=UNKNOWN",
            *(f"NodeName={node} NodeAddr={self.address(node)}" for node in self.node_names),
            "PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP",
            f"PartitionName=main Default=YES PriorityTier=10 GraceTime={self.grace_s}",
            "PartitionName=urgent PriorityTier=100 PreemptMode=OFF",
            *self.extra,
        )

    def _slurmdbd(self) -> Sequence[str]:
        return (
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.munge_socket}",
            "DbdHost=localhost",
            f"DbdAddr={self.controller}",
            "SlurmUser=root",
            f"PidFile={self.folder}/run/slurmdbd.pid",
            f"LogFile={self.folder}/log/slurmdbd.log",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",
            "StorageUser=root",
            "StorageLoc=slurm_acct_db",
        )


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
