"""Uploads and jobs over HTTP: what is handed in at once, looked at while it runs, and fetched when it is done."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from momu_dist.errors import DataError
from momu_dist.serving.faults import faults
from momu_dist.serving.items import ITEM, MEDIA_TYPES, ZIP
from momu_dist.serving.service import Busy, Service
from momu_dist.serving.store_disk import naming
from momu_dist.serving.store_schema import Full, ItemState, JobState
from momu_dist.serving.wire import BODY, ERRORS, RECIPE, body_of

_CHUNK_BYTES = 2**20
# What to do about an item that is not done, where no error of its own says it.
_ADVICE = {
    "queued": "; ask again later.",
    "running": "; ask again later.",
    "done": "; ask again.",
    "failed": "; send it in a job of its own.",
    "cancelled": "; send it again in another job.",
}

T = TypeVar("T")
Index = Annotated[int, Query(ge=0, lt=2**53)]


class Uploaded(BaseModel):
    """An uploaded file, for as long as it is kept."""

    id: str
    bytes: int
    expires: str


class Accepted(BaseModel):
    """A job that was taken on."""

    id: str
    items: int


class ItemOut(BaseModel):
    """One item of a job; `progress` is the share of its sampling steps that are done, `bytes` the size of its result."""

    index: int
    id: str | None
    state: str
    error: str | None
    progress: float
    bytes: int | None


class JobOut(BaseModel):
    """A job: how many of its items are in which state, the share of all their sampling steps, its first errors."""

    id: str
    state: str
    created: str
    expires: str
    items: dict[str, int]
    progress: float
    errors: list[ItemOut]


class Page(BaseModel):
    """Some items of a job; `next` is where the following page begins."""

    items: list[ItemOut]
    next: int | None


def jobs_router(service: Service) -> APIRouter:
    """The pages for uploads and jobs."""
    router = APIRouter(prefix="/v1", tags=["batch"], responses={c: ERRORS[c] for c in (401, 422)})
    store, limits = service.store, service.settings

    @router.post(
        "/files",
        status_code=201,
        responses={c: ERRORS[c] for c in (400, 408, 413, 415, 503, 504, 507)},
        openapi_extra=BODY,
    )
    async def upload(request: Request) -> Uploaded:
        """Keep the body, a music, video or motion file, for items that name it."""
        content = await body_of(request, limits.max_body_mb, limits.receive_s)
        if not content:
            raise DataError("the body is empty, expected a file; send its bytes.")
        async with service.keeping():
            id = await asyncio.to_thread(_kept, service, content)
        return Uploaded(id=id, bytes=len(content), expires=_time(time.time() + limits.keep_s))

    @router.post(
        "/batch",
        status_code=202,
        responses={c: ERRORS[c] for c in (400, 408, 413, 415, 429, 503, 504, 507)},
        openapi_extra=BODY,
    )
    async def batch(request: Request) -> Accepted:
        """Take on the items in the body, a JSON object a line, as one job."""
        content = await body_of(request, limits.max_body_mb, limits.receive_s)
        async with service.keeping():
            items = await asyncio.to_thread(lambda: list(_lines(service, content)))
            try:
                id = await asyncio.to_thread(store.add_job, items, limits.keep_s, limits.max_pending)
            except Full as error:
                raise Busy(str(error), 60) from None
        service.wake()
        return Accepted(id=id, items=len(items))

    @router.get("/jobs/{job}", responses={404: ERRORS[404]})
    async def state(job: str) -> JobOut:
        """How far a job is."""
        return _job(_known(await asyncio.to_thread(store.job, job), job))

    @router.delete("/jobs/{job}", responses={404: ERRORS[404]})
    async def cancel(job: str) -> JobOut:
        """Stop a job; what is made stays until it expires."""
        cancelled = _known(await asyncio.to_thread(store.cancel, job), job)
        service.wake()
        return _job(cancelled)

    @router.get("/jobs/{job}/items", responses={404: ERRORS[404]})
    async def items(job: str, offset: Index = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Page:
        """The items of a job, in order."""
        found = _known(await asyncio.to_thread(store.items, job, offset, limit + 1), job)
        following = offset + limit if len(found) > limit else None
        return Page(items=[_item(one) for one in found[:limit]], next=following)

    @router.get(
        "/jobs/{job}/items/{index}",
        response_class=Response,
        responses={
            200: {
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
            },
            **{c: ERRORS[c] for c in (404, 409)},
        },
    )
    async def result(job: str, index: int) -> Response:
        """What an item has become."""
        found = await asyncio.to_thread(store.result, job, index) if 0 <= index < 2**53 else None
        if found is None:
            known = await asyncio.to_thread(store.items, job, index, 1) if 0 <= index < 2**53 else None
            if not known:
                raise _no_item(index)
            state, error = known[0].state, known[0].error
            raise HTTPException(
                409, f"item {index} is {state}, expected done{f': {error}' if error else _ADVICE[state]}"
            )
        path, item, recipe = found
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:  # it expired just now
            raise _no_item(index) from None
        headers = {
            "Content-Disposition": f'attachment; filename="{index}{path.suffix}"',
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            **({} if recipe is None else {RECIPE: recipe}),
        }
        media = ZIP if path.suffix == ".zip" else MEDIA_TYPES[item.get("format", "mp4")]
        return StreamingResponse(_chunks(file), media_type=media, headers=headers)

    return router


def _no_item(index: int) -> HTTPException:
    return HTTPException(404, f"there is no item {index} of such a job, or it has expired.")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """What is in an open file, which is whole however long the sending takes: also when it expires meanwhile."""
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _kept(service: Service, content: bytes) -> str:
    with service.store.new_file() as path:
        with naming(service.store.folder):
            path.write_bytes(content)
        return service.store.add_file(path, service.settings.keep_s)


def _lines(service: Service, content: bytes) -> Iterator[dict[str, Any]]:
    """The items of a batch, checked. Raises DataError that names the first line at fault."""
    lines = [(i, line) for i, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise DataError("the batch is empty, expected a JSON object a line; send at least one item.")
    if len(lines) > service.settings.max_items:
        raise DataError(
            f"the batch has {len(lines)} items, expected at most {service.settings.max_items}; send several."
        )
    for i, line in lines:
        try:
            item = ITEM.validate_python(json.loads(line))
            service.check(item)
        except ValidationError as error:
            raise DataError(f"line {i} cannot be used: {faults(error.errors())}.") from None
        except (ValueError, RecursionError):
            raise DataError(f"line {i} is not JSON, expected an object such as {_EXAMPLE}.") from None
        except DataError as error:
            raise DataError(f"line {i}: {error}") from None
        yield item.model_dump(mode="json")


_EXAMPLE = '{"task": "joint", "seconds": 8, "seed": 1}'


def _known(found: T | None, job: str) -> T:
    if found is None:
        raise HTTPException(404, "there is no such job, or it has expired; look at the id.")
    return found


def _job(state: JobState) -> JobOut:
    return JobOut(
        id=state.id,
        state=state.state,
        created=_time(state.created),
        expires=_time(state.expires),
        items={str(name): n for name, n in state.items.items()},
        progress=state.progress,
        errors=[_item(one) for one in state.errors],
    )


def _item(state: ItemState) -> ItemOut:
    return ItemOut(
        index=state.index,
        id=state.id,
        state=state.state,
        error=state.error,
        progress=state.progress,
        bytes=state.bytes,
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
