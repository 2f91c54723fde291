"""Counters of the service in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momu_dist.serving.service import Service

_BUCKETS_S = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class Metrics:
    """What happened since the start of this process, and how much is under way."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "momu_requests", "Answered requests", ["path", "code"], registry=self._registry
        )
        self._seconds = Histogram(
            "momu_generate_seconds", "Seconds of answered generations", ["task"],
            registry=self._registry, buckets=_BUCKETS_S,
        )  # fmt: skip
        inside = Gauge("momu_samples_inside", "Samples accepted and not answered", registry=self._registry)
        inside.set_function(lambda: service.inside)
        pending = Gauge(
            "momu_items_pending", "Items of jobs that wait or are in work", registry=self._registry
        )
        pending.set_function(service.store.pending)

    @contextmanager
    def timed(self, task: str) -> Iterator[None]:
        """Note the seconds of the body, if it comes to its end."""
        began = time.monotonic()
        yield
        self._seconds.labels(task).observe(time.monotonic() - began)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """`app`, each answer counted by its route (not by its address, which anyone can make up) and code."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begun = False

            def count(status: int) -> None:
                path = getattr(scope.get("route"), "path", "none")
                self._requests.labels(path, str(status)).inc()

            async def sent(message: Message) -> None:
                nonlocal begun
                if message["type"] == "http.response.start":
                    begun = True
                    count(message["status"])
                await send(message)

            try:
                await app(scope, receive, sent)
            except ClientDisconnect:
                raise  # nobody is there to be answered
            except Exception:
                if not begun:
                    count(500)  # it is answered with that outside of any middleware
                raise

        return counted

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
