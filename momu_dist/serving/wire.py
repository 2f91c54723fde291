"""What all pages of the interface share: bodies in bounds, and errors as sentences."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException


class Error(BaseModel):
    """What went wrong, in one sentence."""

    error: str


_SAID = {
    400: "The request cannot be read",
    401: "The service's token is needed",
    404: "There is no such thing, or it has expired",
    408: "The body does not come",
    409: "It is not at its end yet",
    413: "The body is too large",
    415: "The body is a form, expected the bytes of a file",
    422: "The request cannot be used",
    429: "Too much is asked at once; Retry-After says when to try again",
    503: "Nothing can be made now",
    504: "It took too long",
    507: "There is no room to keep it",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Error, "description": text} for code, text in _SAID.items()
}

BODY = {
    "requestBody": {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""For pages whose body is a file."""

RECIPE = "X-Momu-Recipe"
"""The header with `Made.recipe` beside what was made."""


async def body_of(request: Request, most_mb: float, within_s: float) -> bytes:
    """The body, read no further than `most_mb` and no longer than `within_s`; HTTPException 413 or 408 beyond.

    HTTPException 415 for a form, whose envelope would be taken for the file.
    """
    most = int(most_mb * 2**20)
    if declared_bytes(request.headers.raw) > most:
        raise HTTPException(413, too_large(most_mb))
    content = bytearray()
    async with _within(within_s):
        async for chunk in request.stream():
            content += chunk
            if len(content) > most:
                raise HTTPException(413, too_large(most_mb))
    if _is_form(request.headers.get("content-type", ""), content):
        raise HTTPException(
            415, "the body is a form; send the bytes as they are (curl --data-binary @file), not a form."
        )
    return bytes(content)


def _is_form(content_type: str, content: bytearray) -> bool:
    """Whether a body begins as the form that its type says it is; some send plain bytes under that type."""
    boundary = re.search(r'^multipart/.*;\s*boundary="?([^";\s]+)', content_type, re.IGNORECASE)
    return boundary is not None and content.lstrip()[:100].startswith(f"--{boundary[1]}".encode())


async def no_body(request: Request, within_s: float) -> None:
    """HTTPException 422 for a body, of which only the begin is read, and 408 for one that does not come."""
    async with _within(within_s):
        async for chunk in request.stream():
            if chunk:
                raise HTTPException(
                    422, "there is a body, expected none where the input is a file or nothing; leave it out."
                )


def check_query(request: Request) -> None:
    """HTTPException 422 for a setting that is given more than once, of which only one would count."""
    names = [name for name, _ in request.query_params.multi_items()]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise HTTPException(422, f"{twice[0][:100]!r} is given {names.count(twice[0])} times, expected once.")


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise HTTPException(
            408, f"the body did not come within {seconds:g} s; send it faster, or send less."
        ) from None


def declared_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The Content-Length among raw headers, 0 where it is not said."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value.lstrip(b"0")[:20] or b"0")  # Python turns only so many digits into a number
    return 0


def too_large(most_mb: float) -> str:
    """What is said of a body beyond the bound."""
    return f"the body is too large, expected at most {most_mb:g} MB; send less."
