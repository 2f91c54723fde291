"""A small stand-in of the service, over real HTTP, whose faults a test can plan."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

TYPES = {
    "wav": "audio/wav",
    "npz": "application/octet-stream",
    "json": "application/json",
    "bvh": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "mp4": "video/mp4",
    "png": "image/png",
    "zip": "application/zip",
}


@dataclass
class Asked:
    """A request that arrived, and the port that it came from."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    headers: dict[str, str]
    port: int


@dataclass
class Answer:
    status: int
    body: bytes = b""
    type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def error(status: int, sentence: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"error": sentence}).encode(), headers=named)


@dataclass
class StubJob:
    """Its items; each look at its state ends the next `pace` of them. One whose id starts with bad fails."""

    lines: list[dict[str, Any]]
    states: list[str]
    cancelled: bool = False

    def advance(self, pace: int) -> None:
        for index in [i for i, state in enumerate(self.states) if state == "queued"][:pace]:
            self.states[index] = "failed" if self.name(index).startswith("bad") else "done"

    def name(self, index: int) -> str:
        return self.lines[index].get("id") or ""

    def result(self, index: int) -> bytes:
        return sha256(json.dumps(self.lines[index], sort_keys=True).encode()).digest() * (index % 7 + 1)

    def ended(self) -> bool:
        return self.cancelled or "queued" not in self.states


class Stub:
    """The service's contract on a port of this machine.

    `plan[path]` is a list of what is done with the next requests to `path` in place of answering them: an Answer to give,
    "drop" (the connection ends without one), "truncate" (it ends within the body); None answers as ever.
    """

    error = staticmethod(error)
    Answer = Answer

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.plan: dict[str, list[Answer | str | None]] = defaultdict(list)
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, StubJob] = {}
        self.pace = 1_000_000
        self.ready = True
        self.made: Callable[[Asked], bytes] = self.default_made
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    def start(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def do_GET(self) -> None:
                stub.handle(self)

            do_POST = do_DELETE = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def calls(self, path: str, method: str | None = None) -> list[Asked]:
        """What was asked of `path`, a regular expression."""
        return [a for a in self.asked if re.fullmatch(path, a.path) and method in (None, a.method)]

    @staticmethod
    def default_made(asked: Asked) -> bytes:
        said = [asked.path, sorted(asked.query.items()), sha256(asked.body).hexdigest()]
        return json.dumps(said).encode()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        asked = Asked(
            handler.command,
            parts.path,
            dict(parse_qsl(parts.query)),
            body,
            dict(handler.headers.items()),
            handler.client_address[1],
        )
        self.asked.append(asked)
        planned = self.plan[asked.path].pop(0) if self.plan[asked.path] else None
        if planned == "drop":
            handler.close_connection = True
            return
        answer = planned if isinstance(planned, Answer) else self.answer(asked)
        handler.send_response(answer.status)
        handler.send_header("Content-Type", answer.type)
        handler.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if planned == "truncate":
            handler.wfile.write(answer.body[: len(answer.body) // 2])
            handler.close_connection = True
        else:
            handler.wfile.write(answer.body)

    def answer(self, asked: Asked) -> Answer:
        parts = asked.path.strip("/").split("/")
        match [asked.method, *parts]:
            case ["GET", "readyz"]:
                return self.json(200, {}) if self.ready else error(503, "no model is ready", Retry_After="1")
            case ["GET", "v1", "models"]:
                return self.json(200, {"models": [{"name": "dit_a2m"}]})
            case ["POST", "v1", "generate", _]:
                ending = "zip" if asked.query.get("n", "1") != "1" else asked.query.get("format", "mp4")
                return Answer(200, self.made(asked), TYPES[ending])
            case ["POST", "v1", "files"]:
                id = f"{len(self.files):032x}"
                self.files[id] = asked.body
                return self.json(
                    201, {"id": id, "bytes": len(asked.body), "expires": "2030-01-01T00:00:00+00:00"}
                )
            case ["POST", "v1", "batch"]:
                lines = [json.loads(line) for line in asked.body.decode().splitlines()]
                id = f"{len(self.jobs) + 0xA0:032x}"
                self.jobs[id] = StubJob(lines, ["queued"] * len(lines))
                return self.json(202, {"id": id, "items": len(lines)})
            case [_, "v1", "jobs", id, *rest] if id in self.jobs:
                return self.of_job(asked, id, self.jobs[id], rest)
        return error(404, f"there is no {asked.path[:40]}")

    def of_job(self, asked: Asked, id: str, job: StubJob, rest: list[str]) -> Answer:
        match [asked.method, *rest]:
            case ["GET"]:
                job.advance(self.pace)
                return self.json(200, self.job_state(id, job))
            case ["DELETE"]:
                job.cancelled = True
                job.states = ["cancelled" if state == "queued" else state for state in job.states]
                return self.json(200, self.job_state(id, job))
            case ["GET", "items"]:
                offset, limit = int(asked.query.get("offset", 0)), int(asked.query.get("limit", 100))
                end = min(offset + limit, len(job.lines))
                items = [self.item_state(job, index) for index in range(offset, end)]
                return self.json(200, {"items": items, "next": end if end < len(job.lines) else None})
            case ["GET", "items", index] if job.states[int(index)] == "done":
                line = job.lines[int(index)]
                ending = "zip" if line.get("n", 1) != 1 else line.get("format", "mp4")
                return Answer(200, job.result(int(index)), TYPES[ending])
        return error(409, "the item is not done")

    @staticmethod
    def json(status: int, value: Any) -> Answer:
        return Answer(status, json.dumps(value).encode())

    @staticmethod
    def job_state(id: str, job: StubJob) -> dict[str, Any]:
        counts = {
            state: job.states.count(state) for state in ("queued", "running", "done", "failed", "cancelled")
        }
        failed = [i for i, state in enumerate(job.states) if state == "failed"]
        return {
            "id": id,
            "state": "cancelled" if job.cancelled else "done" if job.ended() else "running",
            "created": "2029-01-01T00:00:00+00:00",
            "expires": "2029-01-08T00:00:00+00:00",
            "items": counts,
            "progress": 1 - counts["queued"] / len(job.states),
            "errors": [
                {"index": i, "id": job.lines[i].get("id"), "error": "it has no beat"} for i in failed[:100]
            ],
        }

    @staticmethod
    def item_state(job: StubJob, index: int) -> dict[str, Any]:
        state = job.states[index]
        return {
            "index": index,
            "id": job.lines[index].get("id"),
            "state": state,
            "error": "it has no beat" if state == "failed" else None,
            "progress": float(state == "done"),
            "bytes": len(job.result(index)) if state == "done" else None,
        }


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A service of the contract that `momu_dist.client` asks."""
    monkeypatch.delenv("MOMU_SERVE_TOKEN", raising=False)
    service = Stub()
    yield service
    service.stop()
