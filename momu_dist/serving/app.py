"""The service on Ray Serve: one process for HTTP and jobs, replicas that hold the models.

`build` is what `serve deploy serve/app.yaml` and `momu serve` run. The process for HTTP is one: it owns the store of jobs, and
sampling takes a thousand times what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.exceptions import RayActorError, WorkerCrashedError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from momu_dist.errors import DataError, DiskError, MomuError
from momu_dist.inference.request import Task
from momu_dist.serving.api import create_app, with_lifespan
from momu_dist.serving.beforehand import read_token
from momu_dist.serving.front import check_bound
from momu_dist.serving.items import SETTINGS, Settings
from momu_dist.serving.making import Made, Maker, Progress
from momu_dist.serving.reading import read_bytes
from momu_dist.serving.runner import Runner
from momu_dist.serving.service import Service, Unavailable
from momu_dist.serving.settings import settings_from
from momu_dist.serving.stepping import Kind, Stepper
from momu_dist.serving.store import Store

_log = logging.getLogger(__name__)

_READERS = 4
# Calls of a replica beside what it makes, so that it tells of its models also when it is full.
_SPARE_CALLS = 16
_EXPIRE_S = 600.0


@ray.remote(num_cpus=0, max_retries=0)
def read_upload(
    task: Task, content: bytes, fps: float | None, longest_s: float, seconds: float | None
) -> dict[str, Any] | str:
    """The request fields of an upload, or the sentence about it; in a process whose end ends nothing else."""
    try:
        return read_bytes(task, content, fps, longest_s, seconds)
    except MomuError as error:
        return str(error)


@serve.deployment(name="sampler")
class Sampler:
    """A replica: the models, and the thread that steps whatever is under way on them."""

    def __init__(self, values: dict[str, Any]) -> None:
        import torch

        from momu_dist.serving.current import Current

        self._settings = settings_from(values)
        # Ray gives a process as many threads as it has logical CPUs, here one.
        torch.set_num_threads(
            self._settings.threads or max(1, (os.cpu_count() or 1) // self._settings.replicas)
        )
        self._current = Current(self._settings)
        self._stepper = Stepper(self._settings.max_batch, self._settings.jobs_at_once)
        self._maker = Maker(self._stepper)

    async def make(
        self, task: Task, values: dict[str, Any], inputs: dict[str, Any], kind: Kind
    ) -> AsyncIterator[Progress | Made | str]:
        """Progress now and then, and at last what was made, or the sentence that says why it was not."""
        settings = SETTINGS[task](**values)
        try:
            async with contextlib.aclosing(
                self._maker.make(self._current.generator, task, settings, inputs, kind)  # type: ignore[type-var]
            ) as said:
                async for word in said:
                    yield word
        except MomuError as error:
            yield str(error)

    async def describe(self) -> dict[str, Any]:
        """What new requests are made with."""
        return self._current.describe()

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises: one that has work and does not get on with it."""
        stalled_s = max(self._stepper.stalled_s(), self._maker.stalled_s())
        if stalled_s > self._settings.stall_s:
            inside, waiting = self._stepper.load()
            raise RuntimeError(
                f"no progress for {stalled_s:.0f} s, with {inside} samples under way and {waiting} that wait"
            )


class Replicas:
    """The service's `Backend`: uploads are read by tasks, samples made by replicas."""

    def __init__(self, sampler: DeploymentHandle) -> None:
        self._make = sampler.options(method_name="make", stream=True)
        self._describe = sampler.describe
        self._readers = asyncio.Semaphore(_READERS)

    async def read(
        self, task: Task, content: bytes, fps: float | None, longest_s: float, seconds: float | None
    ) -> dict[str, Any]:
        async with self._readers:
            reading = read_upload.remote(task, content, fps, longest_s, seconds)
            try:
                found = await reading
            except (WorkerCrashedError, RayOutOfMemoryError) as error:
                raise DataError("the upload cannot be read, it broke its reader; send another.") from error
            finally:
                ray.cancel(reading, force=True)
        if isinstance(found, str):
            raise DataError(found)
        return dict(found)

    async def make(
        self, task: Task, settings: Settings, inputs: dict[str, Any], kind: Kind
    ) -> AsyncIterator[Progress | Made]:
        values = settings.model_dump(include=set(SETTINGS[task].model_fields))
        stream = self._make.remote(task, values, inputs, kind)
        try:
            async for word in stream:
                if isinstance(word, str):
                    raise DataError(word)
                yield word
        except RayActorError as error:
            raise Unavailable("the replicas that tried it ended; try again.") from error
        finally:
            stream.cancel()

    async def describe(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(10):
                return dict(await self._describe.remote())
        except (RayActorError, RayServeException, TimeoutError) as error:
            raise Unavailable("the models are not loaded yet; try again.") from error


@serve.deployment(name="api")
@serve.ingress()
class Api:
    """The process that speaks HTTP and owns the jobs."""

    def __init__(self, values: dict[str, Any], sampler: DeploymentHandle) -> None:
        settings = settings_from(values)
        check_bound(settings.max_body_mb)
        self._store = Store(Path(settings.state))
        self._token = None if settings.token_file is None else read_token(settings.token_file)
        self._service = Service(settings, self._store, Replicas(sampler))
        self._runner = Runner(self._store, self._service.work, settings.jobs_at_once)
        self._service.wake = self._runner.wake  # type: ignore[method-assign]
        self._tasks: list[asyncio.Task[None]] = []

    def __serve_build_asgi_app__(self) -> Any:
        lifespan = with_lifespan(self._start, self._stop)
        return create_app(self._service, self._token, lifespan)

    def check_health(self) -> None:
        """Ray replaces this process where its jobs are not looked after any more."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"a task of the service ended: {task}")
        if self._tasks and (stalled_s := self._runner.stalled_s()) > self._service.settings.stall_s:
            raise RuntimeError(f"jobs have not been looked after for {stalled_s:.0f} s")

    async def _start(self) -> None:
        self._tasks = [asyncio.create_task(self._runner.run()), asyncio.create_task(self._expire())]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._store.close()

    async def _expire(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._store.expire)
            except DiskError as error:
                _log.warning("what has expired stays for now: %s", error)
            await asyncio.sleep(_EXPIRE_S)


def build(args: dict[str, Any]) -> Application:
    """The application for settings as `serve/app.yaml` has them under `args`. Raises ConfigError."""
    settings = settings_from(args)
    values = settings.model_dump()
    values["state"] = str(Path(settings.state).absolute())
    ongoing = settings.queue + settings.jobs_at_once + _SPARE_CALLS
    sampler = Sampler.options(  # type: ignore[attr-defined]
        num_replicas=settings.replicas,
        max_ongoing_requests=ongoing,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=10,
    ).bind(values)
    # Requests that find no room are told so by the service itself, so all must reach it.
    return Api.options(  # type: ignore[attr-defined]
        num_replicas=1,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=5,
    ).bind(values, sampler)
