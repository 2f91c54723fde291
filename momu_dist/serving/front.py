"""What stands before Ray Serve in its own process for HTTP, and keeps from it what it would hold or stumble over.

Serve takes in a body as fast as it comes and keeps it until the application reads it, so a bound in the application comes
too late; and it acts on some headers before the application is asked. Ray calls `middlewares` in that process where
`environment` is in its environment.
"""

from __future__ import annotations

import logging
import math
import os

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momu_dist.errors import ConfigError
from momu_dist.serving.settings import ServiceSettings
from momu_dist.serving.wire import declared_bytes, too_large

_log = logging.getLogger(__name__)

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
LIMIT = "MOMU_SERVE_MAX_BODY_MB"

# With these a client could have its request go on after it hung up, have it ended with an answer of Serve's own, or let it
# look for a replica that there is not. Written with - or _, as Serve reads them.
_FOR_SERVE = {
    b"x-request-disconnect-disabled",
    b"x-request-timeout-seconds",
    b"serve-multiplexed-model-id",
}


def environment(most_mb: float) -> dict[str, str]:
    """The variables that bring `Front` into Serve's process, with this bound on a body."""
    return {CALLBACK: f"{__name__}:{middlewares.__name__}", LIMIT: str(most_mb)}


def middlewares() -> list[Middleware]:
    """Called by Ray Serve when its process for HTTP starts."""
    usual: float = ServiceSettings.model_fields["max_body_mb"].default
    try:
        most_mb = _told_mb() or usual
    except ConfigError as error:  # which the application raises too; this process would only be started again
        _log.error("bodies are bounded at %g MB: %s", usual, error)
        most_mb = usual
    return [Middleware(Front, most_mb)]


def check_bound(most_mb: float) -> None:
    """Raise ConfigError where Serve's process for HTTP is known to bound bodies below `most_mb`.

    It is known where the variable reaches this process too. A larger bound there does no harm.
    """
    told = _told_mb()
    if told is not None and told < most_mb:
        raise ConfigError(
            f"{LIMIT} is {told:g}, expected max_body_mb ({most_mb:g}) or more, for Serve's process for HTTP would refuse what "
            "the application takes; set both alike, and start Serve again."
        )


def _told_mb() -> float | None:
    """The bound in the environment, None where there is none. Raises ConfigError for what is no size."""
    text = os.environ.get(LIMIT)
    if text is None:
        return None
    try:
        told = float(text)
    except ValueError:
        told = math.nan
    if not (math.isfinite(told) and told > 0):
        raise ConfigError(f"{LIMIT} is {text!r}, expected a number of MB above 0, such as 64; mend it.")
    return told


class Front:
    """`app` behind a bound on each body; it never sees the headers that Serve may not."""

    def __init__(self, app: ASGIApp, most_mb: float) -> None:
        self._app, self._most_mb = app, most_mb

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {
            **scope,
            "headers": [(name, value) for name, value in scope["headers"] if _passes(name, value)],
        }
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left, over, begun = int(self._most_mb * 2**20), False, False

        async def bounded() -> Message:
            nonlocal left, over
            message = await receive()
            left -= len(message.get("body", b""))
            over = over or left < 0
            return {"type": "http.disconnect"} if over else message  # which ends the request for Serve

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        if declared_bytes(scope["headers"]) > left:
            over = True
        else:
            await self._app(scope, bounded, sent)
        if over and not begun:
            await JSONResponse({"error": too_large(self._most_mb)}, 413)(scope, receive, send)


def _passes(name: bytes, value: bytes) -> bool:
    try:
        value.decode()  # as Serve does with some
    except UnicodeDecodeError:
        return False
    return name.lower().replace(b"_", b"-") not in _FOR_SERVE
