"""The HTTP interface: what a client sends, in which bounds, and what it is told. Everything else is `Service`."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from momu_dist import __version__
from momu_dist.errors import DiskError, MomuError
from momu_dist.inference.request import Task
from momu_dist.serving.faults import faults
from momu_dist.serving.items import MEDIA_TYPES, PATHS, ZIP, FromMotion, FromMusic, Joint, Settings
from momu_dist.serving.jobs_api import jobs_router
from momu_dist.serving.making import Made
from momu_dist.serving.metrics import Metrics
from momu_dist.serving.service import Busy, Gone, Late, NoRoom, Service, Unavailable
from momu_dist.serving.wire import BODY, ERRORS, RECIPE, body_of, check_query, no_body

_log = logging.getLogger(__name__)

_BEARER = HTTPBearer(auto_error=False, description="the token of the service's token_file")
_OF_THE_ROUTER = {
    "Not Found": "there is no such page; /docs shows those that there are.",
    "Method Not Allowed": "this page does not take that method; /docs shows which it takes.",
}


def create_app(service: Service, token: str | None = None, lifespan: Any = None) -> FastAPI:
    """The application over `service`. With `token` all pages ask for it as a bearer, but health and the interface's own."""
    metrics = Metrics(service)
    app = FastAPI(title="momu_dist", version=__version__, lifespan=lifespan)
    guard = [Depends(_guard(token))] if token else []
    app.include_router(_generate_router(service, metrics), dependencies=guard)
    app.include_router(jobs_router(service), dependencies=guard)
    app.include_router(_models_router(service, metrics), dependencies=guard)
    app.include_router(_health_router(service))
    app.add_middleware(metrics.counting)
    _say_errors(app)
    return app


def _generate_router(service: Service, metrics: Metrics) -> APIRouter:
    router = APIRouter(prefix="/v1/generate", tags=["generate"])
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "content": {name: {"schema": {"type": "string", "format": "binary"}} for name in _answer_types()}
        },
        **{code: ERRORS[code] for code in (400, 401, 404, 408, 413, 415, 422, 429, 503, 504)},
    }

    async def answer(task: Task, settings: Settings, request: Request) -> Response:
        check_query(request)
        service.check(settings)
        service.check_room(settings.n)  # before a body is awaited for nothing
        with metrics.timed(task):
            sent = _body_of(service, task, settings, request)
            return _file(await service.answer(task, settings, sent), settings)

    @router.post(f"/{PATHS['a2m']}", response_class=Response, responses=answers, openapi_extra=BODY)
    async def music_to_motion(settings: Annotated[FromMusic, Query()], request: Request) -> Response:
        """Motion for the music in the body: any audio file, or a video with sound."""
        return await answer("a2m", settings, request)

    @router.post(f"/{PATHS['m2a']}", response_class=Response, responses=answers, openapi_extra=BODY)
    async def motion_to_music(settings: Annotated[FromMotion, Query()], request: Request) -> Response:
        """Music for the motion in the body: npz, npy or OpenPose JSON."""
        return await answer("m2a", settings, request)

    @router.post(f"/{PATHS['joint']}", response_class=Response, responses=answers)
    async def joint(settings: Annotated[Joint, Query()], request: Request) -> Response:
        """Music and motion that belong together, from nothing but a seed."""
        return await answer("joint", settings, request)

    return router


def _models_router(service: Service, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["service"], responses={code: ERRORS[code] for code in (401, 503)})

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What new requests are made with, and the bounds on them."""
        limits = service.settings.model_dump(
            include={"max_seconds", "max_steps", "max_samples", "max_body_mb"}
        )
        return {**await service.backend.describe(), "limits": limits}

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Counters in Prometheus' text format."""
        return Response(await asyncio.to_thread(metrics.text), media_type="text/plain; version=0.0.4")

    return router


def _health_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def alive() -> dict[str, str]:
        """The service answers; whether it can make something is for `/readyz`."""
        return {"state": "alive"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses={503: ERRORS[503]})
    async def ready() -> dict[str, str]:
        """The service has models and comes further with what it makes."""
        await service.check_ready()
        return {"state": "ready"}

    return router


async def _body_of(service: Service, task: Task, settings: Settings, request: Request) -> bytes:
    """The body, where neither an uploaded file nor nothing is the input; what is not read must not be sent."""
    limits = service.settings
    if task != "joint" and getattr(settings, "file", None) is None:
        return await body_of(request, limits.max_body_mb, limits.receive_s)
    await no_body(request, limits.receive_s)
    return b""


def _file(made: Made, settings: Settings) -> Response:
    media = ZIP if made.suffix == "zip" else MEDIA_TYPES[settings.format]
    headers = {
        "Content-Disposition": f'attachment; filename="sample-{settings.seed}.{made.suffix}"',
        RECIPE: made.recipe,
    }
    return Response(made.content, media_type=media, headers=headers)


def _answer_types() -> list[str]:
    return sorted({name.split(";")[0] for name in (*MEDIA_TYPES.values(), ZIP)})


def _guard(token: str) -> Callable[..., None]:
    def guard(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            found = "no token is given" if given is None else "the token is not the one of this service"
            raise HTTPException(
                401,
                f"{found}; send the service's as `Authorization: Bearer <token>`.",
                {"WWW-Authenticate": "Bearer"},
            )

    return guard


def _say_errors(app: FastAPI) -> None:
    """Every error is one sentence under `error`, and none tells what is inside."""

    def say(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        detail = _OF_THE_ROUTER.get(str(error.detail), str(error.detail))
        return say(error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return say(422, f"the request cannot be used: {faults(error.errors())}.")

    @app.exception_handler(MomuError)
    async def momu(_: Request, error: MomuError) -> JSONResponse:
        if isinstance(error, Busy):
            return say(429, str(error), {"Retry-After": str(error.retry_s)})
        if isinstance(error, NoRoom):
            return say(507, str(error))
        if isinstance(error, DiskError):  # says where the service keeps things
            _log.error("%s", error)
            return say(503, "the service cannot write to its disk; try again later.", {"Retry-After": "60"})
        return say({Late: 504, Gone: 404}.get(type(error), 422), str(error))

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> JSONResponse:
        return say(503, str(error), {"Retry-After": "5"})


def with_lifespan(start: Callable[[], Any], stop: Callable[[], Any]) -> Any:
    """A lifespan for `create_app`: `start` before the first request, `stop` after the last."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        await start()
        yield
        await stop()

    return lifespan
