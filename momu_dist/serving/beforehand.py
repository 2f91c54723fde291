"""What can be known to stand against a start before a Ray is started for it: said at once, in a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import torch

from momu_dist.errors import ConfigError
from momu_dist.inference.export import exports_under
from momu_dist.inference.vocoders import check_vocoder
from momu_dist.serving.settings import ServiceSettings
from momu_dist.serving.store import Store
from momu_dist.tracking.registry import resolve
from momu_dist.train.listening import try_listening

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_start(settings: ServiceSettings, host: str, port: int) -> None:
    """Raise ConfigError, CheckpointError, DataError or DiskError for what the service could not start with.

    On a Ray that is joined, GPUs, state and port may be those of another machine or of the service that is replaced; what
    is wrong with them shows there, or once it is known whether Serve runs on it.
    """
    _check_address(host, port, settings.token_file)
    if settings.token_file is not None:
        read_token(settings.token_file)
    for name in settings.checkpoint:
        exports_under(resolve(name, settings.tracking_uri))
    if settings.vocoder is not None:
        check_vocoder(resolve(settings.vocoder, settings.tracking_uri))
    if not os.environ.get("RAY_ADDRESS"):
        _check_gpus(settings)
        check_free(host, port)
        Store(Path(settings.state)).close()  # no other service has it


def read_token(path: str) -> str:
    """The token that a file holds. Raises ConfigError for one that holds none."""
    try:
        token = Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"token_file {path} cannot be read ({error.strerror}); mend it, or leave it out."
        ) from error
    except UnicodeDecodeError:
        token = ""
    if not token.isascii() or len(token) < 16:
        raise ConfigError(
            f"token_file {path} holds no token, expected at least 16 ASCII characters; `openssl rand -hex 32` makes one."
        )
    return token


def _check_address(host: str, port: int, token_file: str | None) -> None:
    if not isinstance(port, int) or not 0 < port < 2**16:
        raise ConfigError(f"the port is {port!r}, expected 1 to {2**16 - 1}; give another with --port.")
    if host not in LOOPBACK and token_file is None:
        raise ConfigError(
            f"{host} can be reached from elsewhere, and without a token by anyone; give token_file=<file> "
            f"(`openssl rand -hex 32` makes a token), or listen on {LOOPBACK[0]}."
        )


def _check_gpus(settings: ServiceSettings) -> None:
    wanted = settings.replicas * settings.gpus
    if wanted and wanted > (there := torch.cuda.device_count()):
        raise ConfigError(
            f"{settings.replicas} replicas of {settings.gpus:g} GPUs are asked for, this machine has {there}; set gpus=0 to "
            "use its CPUs, or fewer of them."
        )


def is_here(address: str) -> bool:
    """Return whether the Ray at `address` has its head, and with it Serve's process for HTTP, on this machine."""
    host = address.rpartition(":")[0]
    try:
        try_listening(host, 0)
    except OSError:
        return False
    return bool(host)


def check_free(host: str, port: int) -> None:
    """Raise ConfigError where nothing can listen there."""
    try:
        try_listening(host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program listens there" if taken else error.strerror
        raise ConfigError(
            f"the service cannot listen at {host}:{port} ({reason}), expected a free port of this machine; give another "
            "with --port, or another --host."
        ) from error
