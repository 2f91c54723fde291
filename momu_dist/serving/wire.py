"""What all pages of the interface share: bodies in bounds, and errors as sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException


class Error(BaseModel):
    """What went wrong, in one sentence."""

    error: str


_SAID = {
    400: "The request cannot be read",
    401: "A token is needed",
    404: "There is no such thing, or it has expired",
    409: "It is not at its end yet",
    413: "The body is too large",
    422: "The request cannot be used",
    429: "Too much is asked at once; Retry-After says when to try again",
    503: "Nothing can be made now",
    504: "It took too long",
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


async def body_of(request: Request, most_mb: float) -> bytes:
    """The body, read no further than `most_mb`; HTTPException 413 for more."""
    most = int(most_mb * 2**20)
    if declared_bytes(request.headers.raw) > most:
        raise HTTPException(413, too_large(most_mb))
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise HTTPException(413, too_large(most_mb))
    return bytes(content)


async def no_body(request: Request) -> None:
    """HTTPException 422 for a body, of which only the begin is read."""
    async for chunk in request.stream():
        if chunk:
            raise HTTPException(
                422, "there is a body, expected none where the input is a file or nothing; leave it out."
            )


def declared_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The Content-Length among raw headers, 0 where it is not said."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value.lstrip(b"0")[:20] or b"0")  # Python turns only so many digits into a number
    return 0


def too_large(most_mb: float) -> str:
    """What is said of a body beyond the bound."""
    return f"the body is too large, expected at most {most_mb:g} MB; send less."
