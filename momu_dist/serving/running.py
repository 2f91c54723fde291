"""The service from the command line: on a Ray of its own, or on the one that RAY_ADDRESS names."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import serve

from momu_dist.errors import CheckpointError, Stopped
from momu_dist.inference.export import MODEL_SCHEME, exports_under
from momu_dist.serving.app import build
from momu_dist.serving.front import environment
from momu_dist.serving.settings import ServiceSettings, settings_from
from momu_dist.tracking.registry import resolve
from momu_dist.train.ray_session import ray_session

APPLICATION = "momu"
_HTTP = {"host": "127.0.0.1", "port": 8000}


def run_service(args: Mapping[str, Any], http: Mapping[str, Any]) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGUSR2 (a job whose time is up) comes.

    What else runs on the Serve of a Ray that was joined stays as it is. Raises ConfigError for wrong settings, Stopped
    after a signal, also one that came during the start.
    """
    settings = settings_from(_absolute(args))
    # What is not there is said before a Ray is started.
    for name in settings.checkpoint:
        exports_under(resolve(name, settings.tracking_uri))
    http = {**_HTTP, **http}
    if http["host"] not in ("127.0.0.1", "localhost", "::1") and not settings.token_file:
        print(
            f"warning: {http['host']} can be reached from elsewhere, and without token_file by anyone.",
            flush=True,
        )
    with _signals() as stopped, ray_session(settings.replicas, settings.cpus):
        shared = bool(serve.status().proxies)
        serve.start(
            http_options=http,
            proxy_location="HeadOnly",
            # Serve's process for HTTP inherits it.
            controller_options={"runtime_env": {"env_vars": environment(settings.max_body_mb)}},
        )
        try:
            _deploy(settings)
            url = f"http://{http['host']}:{http['port']}"
            print(f"Serving at {url}: pages for trying it at {url}/docs. Ctrl-C stops.", flush=True)
            while not stopped:
                time.sleep(0.5)
        finally:
            with suppress(KeyboardInterrupt):
                if shared:
                    serve.delete(APPLICATION)
                else:
                    serve.shutdown()
    raise Stopped("the service was stopped; jobs go on when it is started again.")


def _deploy(settings: ServiceSettings) -> None:
    """Start the application and wait until it can answer. Raises CheckpointError where its models cannot be loaded."""
    try:
        serve.run(
            build(settings.model_dump()),
            name=APPLICATION,
            route_prefix="/",
            logging_config={"log_level": "WARNING"},
        )
    except RuntimeError as error:
        # It holds the traceback of the replica that did not start, whose last line says what went wrong.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(f"the service did not start: {lines[-1] if lines else error}") from error


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGTERM and SIGUSR2 that have come since the begin of the body; no Event, whose lock a handler may find taken."""
    stopped: list[int] = []
    before = {
        one: signal.signal(one, lambda number, _: stopped.append(number))
        for one in (signal.SIGTERM, signal.SIGUSR2)
    }
    try:
        yield stopped
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _absolute(args: Mapping[str, Any]) -> dict[str, Any]:
    """`args` with paths that mean the same in every process."""

    def path(name: str) -> str:
        return name if name.startswith(MODEL_SCHEME) else str(Path(name).absolute())

    found = dict(args)
    for key in ("state", "vocoder", "token_file"):
        if isinstance(found.get(key), str):
            found[key] = path(found[key])
    if isinstance(found.get("checkpoint"), list):
        found["checkpoint"] = [path(name) if isinstance(name, str) else name for name in found["checkpoint"]]
    return found
