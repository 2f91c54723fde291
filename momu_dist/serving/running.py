"""The service from the command line: on a Ray of its own, or on the one that RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import serve

from momu_dist.errors import CheckpointError, Stopped
from momu_dist.inference.export import MODEL_SCHEME
from momu_dist.serving.app import build
from momu_dist.serving.beforehand import check_free, check_start, is_here
from momu_dist.serving.front import environment
from momu_dist.serving.settings import ServiceSettings, settings_from
from momu_dist.train.ray_session import ray_session

APPLICATION = "momu"
_HTTP = {"host": "127.0.0.1", "port": 8000}
_LOOK_S = 0.2
_OURS = re.compile(r"\bmomu_dist\.[\w.]+: (\S.*)")  # the end of a traceback


def run_service(args: Mapping[str, Any], http: Mapping[str, Any]) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGUSR2 (a job whose time is up) comes.

    What else runs on the Serve of a Ray that was joined stays as it is. Raises ConfigError for wrong settings, Stopped
    after a signal, also one that came during the start.
    """
    settings = settings_from(_absolute(args))
    http = {**_HTTP, **http}
    check_start(settings, http["host"], http["port"])
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what it says of a start that goes well
    with _signals() as stopped, ray_session(settings.replicas, settings.cpus):
        shared = bool(serve.status().proxies)
        if not shared and is_here(os.environ.get("RAY_ADDRESS", "")):
            check_free(http["host"], http["port"])
        serve.start(
            http_options=http,
            proxy_location="HeadOnly",
            # Serve's process for HTTP inherits it.
            controller_options={"runtime_env": {"env_vars": environment(settings.max_body_mb)}},
        )
        try:
            _deploy(settings, stopped)
            if not stopped:
                url = f"http://{http['host']}:{http['port']}"
                print(f"Serving at {url}: pages for trying it at {url}/docs. Ctrl-C stops.", flush=True)
            while not stopped:
                time.sleep(_LOOK_S)
        finally:
            with suppress(KeyboardInterrupt):
                if shared:
                    serve.delete(APPLICATION)
                else:
                    serve.shutdown()
    raise Stopped("the service was stopped; jobs go on when it is started again.")


def _deploy(settings: ServiceSettings, stopped: Sequence[int]) -> None:
    """Start the application and wait until it can answer, or something is in `stopped`.

    Raises CheckpointError where it cannot start.
    """
    target = build(settings.model_dump())
    failed: list[Exception] = []

    def run() -> None:
        try:
            serve.run(target, name=APPLICATION, route_prefix="/", logging_config={"log_level": "WARNING"})
        except Exception as error:  # of Ray's, whose kinds are many when it is stopped meanwhile
            failed.append(error)

    # Beside this thread, as it goes on until all replicas are up.
    starting = threading.Thread(target=run, name="starting", daemon=True)
    starting.start()
    # What it has not yet asked for could not be taken back.
    while starting.is_alive() and not (stopped and APPLICATION in serve.status().applications):
        starting.join(_LOOK_S)
    if failed and not stopped:
        raise CheckpointError(f"the service did not start: {_why(failed[0])}") from failed[0]


def _why(error: Exception) -> str:
    """The sentence of ours that kept a replica from starting, else the last line of what Ray says about it."""
    said = [str(error)]
    with suppress(Exception):  # it only adds to an error that is there
        application = serve.status().applications[APPLICATION]
        said += [application.message, *(one.message for one in application.deployments.values())]
    text = "\n".join(said)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (_OURS.findall(text) or lines or [type(error).__name__])[-1]


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
