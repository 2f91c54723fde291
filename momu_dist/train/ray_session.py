"""A Ray to work in: the one that RAY_ADDRESS names, or one of our own for as long as it is needed."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from momu_dist.errors import ConfigError
from momu_dist.train.scratch import node_folder, sweep, take

SPARE_CPUS = 4
"""Logical CPUs beyond the workers', for reading data; Ray counts them, they need not exist."""


def cpus_per_core() -> float:
    """Logical CPUs that one busy process should ask for, so that no more of them run than there are cores.

    An own session counts more CPUs than the machine has; a cluster that was joined counts its own.
    """
    return _OWN_CPUS / (os.cpu_count() or 1) if _OWN_CPUS else 1.0


_OWN_CPUS = 0
_SCRATCH = Path("/tmp")

# What a session of one machine and one job would pay for at every start and end, and never use; cleared with it, as a
# cluster that is joined later may want it.
_LEAN = {
    # Ray Train gives all its processes an environment of their own, so none of the processes that Ray would start in
    # advance, one for each logical CPU, is ever taken.
    "RAY_prestart_worker_first_driver": "0",
    # An actor more in every attempt, to watch for the draining of nodes.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # How long the end of a run, or a worker's death, may go unnoticed; the default of 2 s spares large clusters.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
}


@contextmanager
def ray_session(workers: int = 1, cpus_per_worker: float = 1.0) -> Iterator[None]:
    """Give the body a running Ray; an own one is stopped at the end and leaves no files.

    A session that this process has already is used as it is. Without RAY_ADDRESS a plain `ray.init()` would join
    whatever cluster was last started on the machine, another user's too; so the address is always explicit.
    """
    if ray.is_initialized():
        yield
        return
    # Importing torch and DeepSpeed on a busy node takes longer than Ray Train's default minute.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        with _joined(address):
            yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _own_token()
    # Ray runs workers at a lower priority than everything else; here they are the job.
    os.environ.setdefault("RAY_worker_niceness", "0")
    sweep(_SCRATCH, socket.gethostname())  # what killed sessions left, which nobody else would remove
    # Short: the path of Ray's sockets may not exceed 107 bytes.
    folder = Path(node_folder(str(_SCRATCH), secrets.token_hex(4)))
    owner = take(folder, socket.gethostname())
    # Above what a run starts, or Ray writes warnings of its own into the progress.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "1000")
    lean = {name: value for name, value in _LEAN.items() if name not in os.environ}
    os.environ.update(lean)
    global _OWN_CPUS
    _OWN_CPUS = max(math.ceil(workers * cpus_per_worker) + SPARE_CPUS, os.cpu_count() or 1)
    try:
        with _signals_kept():
            ray.init(
                address="local",
                num_cpus=_OWN_CPUS,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
        yield
    finally:
        ray.shutdown()
        _OWN_CPUS = 0
        for name in lean:
            os.environ.pop(name, None)
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep this process's answer to SIGTERM: Ray puts in its own, which ends it with code 15 and without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _own_token() -> None:
    """Make the token that Ray's sessions on this machine share, readable by its owner only; Ray's own would be by all."""
    path = Path.home() / ".ray" / "auth_token"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    # That tokens are in use is said at every start; it is the default and needs nobody's attention.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


@contextmanager
def _joined(address: str) -> Iterator[None]:
    try:
        with _signals_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ConfigError(
            f"no Ray answers at RAY_ADDRESS={address}; start one, correct the address, or unset it to use an own Ray."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
