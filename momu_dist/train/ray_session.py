"""A Ray to work in: the one that RAY_ADDRESS names, or one of our own for as long as it is needed."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from momu_dist.errors import ConfigError

SPARE_CPUS = 4
"""Logical CPUs beyond the workers', for reading data; Ray counts them, they need not exist."""


@contextmanager
def ray_session(workers: int = 1, cpus_per_worker: float = 1.0) -> Iterator[None]:
    """Give the body a running Ray; an own one is stopped at the end and leaves no files.

    A session that this process has already is used as it is. Without RAY_ADDRESS a plain `ray.init()` would join
    whatever cluster was last started on the machine, another user's too; so the address is always explicit.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        with _joined(address):
            yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    # Explicit, and a token of our own: Ray would write one that others can read, and say so at every start.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray runs workers at a lower priority than everything else; here they are the job.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Under /tmp and short: the path of Ray's sockets may not exceed 107 bytes.
    folder = tempfile.mkdtemp(prefix="momu-", dir="/tmp")
    needed = math.ceil(workers * cpus_per_worker) + SPARE_CPUS
    try:
        ray.init(
            address="local",
            num_cpus=max(needed, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _joined(address: str) -> Iterator[None]:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ConfigError(
            f"no Ray answers at RAY_ADDRESS={address}; start one, correct the address, or unset it to use an own Ray."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
