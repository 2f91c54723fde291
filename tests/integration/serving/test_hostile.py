"""What is sent to break the service, through Ray Serve with its own process for HTTP, readers and models.

None of it gets anything but a client's error in a sentence, and the same processes serve on.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from hostile import (
    A2M,
    FILES,
    JOINT,
    M2A,
    MOTION,
    MUSIC,
    NO_HTTP,
    WIRE,
    Case,
    ask,
    fault_of,
    leak_in,
    made_up,
    raw,
    unrefused,
)

from momu_dist.client import Client
from served import Served, metric, until

pytestmark = pytest.mark.serving

MAX_BODY_MB = 36
"""Above the largest of the files, whose reader is to refuse it."""
QUEUE = 16
RECEIVE_S = 20


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served], tiny_runs: Path) -> Iterator[Served]:
    # What is right by chance costs little.
    settings = (
        "max_seconds=10",
        "max_steps=2",
        f"max_body_mb={MAX_BODY_MB}",
        f"queue={QUEUE}",
        f"receive_s={RECEIVE_S}",
    )
    service = serve(*settings, checkpoint=tiny_runs)
    yield service
    service.stop()


@pytest.fixture(scope="module", autouse=True)
def unharmed(served: Served, music: Path, motion: Path) -> Iterator[None]:
    """Before and after all that comes, the same processes make samples; nothing was an error of the service's."""

    def processes() -> set[int]:
        client = Client(served.url)
        for task, given in {"a2m": music, "m2a": motion, "joint": None}.items():
            assert client.generate(task, given, seconds=1.5, steps=2, format="npz").startswith(b"PK")
        assert client.ready()
        return {process.pid for name in ("api", "sampler") for process in served.replicas(name)}

    before = processes()
    yield
    assert len(before) == 2 and processes() == before
    told = requests.get(f"{served.url}/metrics", timeout=30).text.splitlines()
    assert not [line for line in told if line.startswith("momu_requests_total") and 'code="5' in line]


def test_there_is_enough_of_it() -> None:
    assert len(FILES) + len(WIRE) >= 400


def test_files_that_are_none(served: Served) -> None:
    assert unrefused(served.url, FILES) == {}


def test_requests_that_are_none(served: Served) -> None:
    assert unrefused(served.url, WIRE) == {}


def test_what_is_no_http(served: Served) -> None:
    for name, sent in NO_HTTP.items():
        came = raw(served.url, sent)
        assert came.startswith("HTTP/1.1 400") and not leak_in(came), name


def test_requests_made_up_from_the_openapi_page(served: Served) -> None:
    answers = made_up(served.url, examples=12)
    assert len(answers) >= 100 and {200, 404, 422} <= set(answers)


def test_files_that_are_none_as_items_of_a_job(served: Served) -> None:
    """Each fails by itself, at once, with what is wrong with it."""
    lines = []
    for task, files in (("a2m", MUSIC), ("m2a", MOTION)):
        for content in files.values():
            if body := content():
                file = requests.post(f"{served.url}/v1/files", data=body, timeout=60).json()["id"]
                lines.append(json.dumps({"task": task, "file": file, "steps": 1}))
    job = requests.post(f"{served.url}/v1/batch", data="\n".join(lines), timeout=60).json()["id"]
    page = f"{served.url}/v1/jobs/{job}"
    until(
        lambda: requests.get(page, timeout=30).json()["items"]["failed"] == len(lines), 240, "items are left"
    )
    for item in requests.get(f"{page}/items?limit=1000", timeout=30).json()["items"]:
        assert item["error"].endswith(".") and not leak_in(item["error"]), item


@pytest.mark.parametrize(
    "path", [A2M, M2A, f"{JOINT}?seconds=1", "/v1/files", "/v1/batch", "/v1/models", "/nothing"]
)
def test_a_body_that_says_it_is_too_large_is_not_awaited(served: Served, path: str) -> None:
    declared = str(MAX_BODY_MB * 2**20 + 1).encode()
    began = time.monotonic()
    answer = ask(served.url, Case("POST", path, b"", {"Content-Length": declared}))
    assert answer.status == 413 and fault_of(answer) is None and time.monotonic() - began < 5


def test_a_body_that_turns_out_too_large_is_cut_off_by_serves_own_process(served: Served) -> None:
    """Not by the application, which would have counted it."""

    def too_much() -> Iterator[bytes]:
        for _ in range(2 * MAX_BODY_MB):
            yield bytes(2**20)

    refused_by_the_application = 'momu_requests_total{code="413",path="/v1/files"}'
    before = metric(served.url, refused_by_the_application)
    answer = requests.post(f"{served.url}/v1/files", data=too_much(), timeout=30)
    assert answer.status_code == 413 and "too large" in answer.json()["error"]
    assert metric(served.url, refused_by_the_application) == before
    assert requests.post(f"{served.url}/v1/files", data=b"x", timeout=30).status_code == 201


def test_bodies_that_come_slowly_keep_nobody_waiting_and_are_given_up(served: Served, music: Path) -> None:
    place = urlsplit(served.url)
    with ExitStack() as held:
        slow = []
        for path in [f"{A2M}?steps=1", "/v1/files"] * (QUEUE + 1):
            one = held.enter_context(
                socket.create_connection((place.hostname, place.port), timeout=2 * RECEIVE_S)
            )
            one.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx".encode())
            slow.append(one)
        assert requests.post(f"{served.url}/v1/files", data=b"x", timeout=RECEIVE_S).status_code == 201
        assert Client(served.url).generate("a2m", music, seconds=1.5, steps=2, format="npz")
        for one in slow:
            came = one.recv(65_536).decode()
            assert came.startswith("HTTP/1.1 408") and not leak_in(came), came
