"""What stands before Ray Serve: bodies in bounds, and headers that Serve may see."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private import http_util
from ray.serve.config import HTTPOptions
from ray.serve.schema import ServeDeploySchema

from momu_dist.errors import ConfigError
from momu_dist.serving.app import Api
from momu_dist.serving.front import CALLBACK, LIMIT, Front, check_bound, environment, middlewares
from momu_dist.serving.settings import ServiceSettings

MB = 2**20


class Serve:
    """Ray Serve's process for HTTP, played: it takes in all of a body, and answers unless the client goes away."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.held = 0
        self.ended = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers = scope["headers"]
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ended = "disconnect"
                return
            self.held += len(message["body"])
            more = message["more_body"]
        self.ended = "answer"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"good"})


def posted(app: Any, chunks: list[bytes], *headers: tuple[bytes, bytes]) -> tuple[int, bytes, int]:
    """(status, body, chunks that were taken) of a request."""
    sent: list[dict[str, Any]] = []
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    (start,) = [one for one in sent if one["type"] == "http.response.start"]
    body = b"".join(one.get("body", b"") for one in sent)
    return start["status"], body, len(chunks) - len(waiting)


@pytest.fixture()
def serve() -> Serve:
    return Serve()


@pytest.fixture()
def front(serve: Serve) -> Front:
    return Front(serve, 2)


def test_a_body_within_the_bound_goes_through(serve: Serve, front: Front) -> None:
    length = (b"content-length", b"%d" % (2 * MB))
    assert posted(front, [bytes(MB), bytes(MB)], length) == (200, b"good", 2)
    assert serve.held == 2 * MB


@pytest.mark.parametrize("declared", [b"%d" % (2 * MB + 1), b"9" * 30, b"9" * 5000])
def test_a_body_that_says_it_is_too_large_is_not_taken(serve: Serve, front: Front, declared: bytes) -> None:
    status, body, taken = posted(front, [b"x"], (b"content-length", declared))
    assert status == 413 and json.loads(body)["error"].endswith("at most 2 MB; send less.")
    assert taken == 0 and not serve.ended


def test_a_body_that_turns_out_too_large_ends_the_request(serve: Serve, front: Front) -> None:
    status, body, taken = posted(front, [bytes(MB)] * 100)
    assert status == 413 and "at most 2 MB" in json.loads(body)["error"]
    assert (taken, serve.held, serve.ended) == (3, 2 * MB, "disconnect")


def test_headers_that_serve_may_not_see_are_left_out(serve: Serve, front: Front) -> None:
    kept = [
        (b"x-request-id", b"mine"), (b"authorization", b"Bearer token"), (b"x-name", "é".encode()),
        (b"content-length", b"0" * 5000 + b"1"),
    ]  # fmt: skip
    dropped = [
        (b"x-request-id", b"\xff"), (b"x-request-disconnect-disabled", b"?1"), (b"x_request_timeout_seconds", b"1"),
        (b"X-Request-Timeout-Seconds", b"1"), (b"serve_multiplexed_model_id", b"x"),
    ]  # fmt: skip
    assert posted(front, [b"x"], *dropped, *kept)[0] == 200
    assert serve.headers == kept


def test_a_websocket_has_its_headers_seen_to(serve: Serve, front: Front) -> None:
    scope = {"type": "websocket", "headers": [(b"x-request-id", b"\xff")]}

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    asyncio.run(front(scope, gone, None))  # type: ignore[arg-type]
    assert serve.headers == [] and serve.ended == "disconnect"


def test_ray_puts_it_before_all_else(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own code finds it by the variable, and a request meets it before what decodes headers."""
    variables = environment(2)
    monkeypatch.setattr(http_util, CALLBACK, variables[CALLBACK])
    monkeypatch.setenv(LIMIT, variables[LIMIT])
    options = http_util.configure_http_middlewares(HTTPOptions())
    app = http_util._apply_middlewares(serve, options.middlewares)
    assert isinstance(app, Front)
    assert posted(app, [bytes(MB)] * 3)[0] == 413
    assert posted(app, [b""], (b"x-request-id", b"\xff"))[0] == 200
    assert all(value.decode() for _, value in serve.headers)


def test_the_usual_config_has_the_usual_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT, raising=False)
    (front,) = middlewares()
    usual = ServiceSettings(checkpoint=["run"]).max_body_mb
    assert front.args == (usual,)
    config = ServeDeploySchema.model_validate(yaml.safe_load(Path("serve/app.yaml").read_text()))
    assert config.controller_options is not None and config.controller_options.runtime_env is not None
    told = config.controller_options.runtime_env["env_vars"]
    assert {**told, LIMIT: float(told[LIMIT])} == {**environment(usual), LIMIT: usual}


@pytest.mark.parametrize("told", [None, "36", "64.0", "100"])
def test_the_application_starts_where_serve_lets_through_what_it_takes(
    told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LIMIT, raising=False)
    if told is not None:
        monkeypatch.setenv(LIMIT, told)
    check_bound(36)


def test_the_application_does_not_start_where_serve_would_refuse_what_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(LIMIT, "64")
    _, api, *_ = Api.func_or_class.__mro__  # type: ignore[attr-defined]  # without what Serve puts around it
    with pytest.raises(ConfigError, match="MAX_BODY_MB is 64, expected max_body_mb .100. or more"):
        api({"checkpoint": ["run"], "max_body_mb": 100}, None)


@pytest.mark.parametrize("told", ["", "64 MB", "nan", "inf", "0", "-1"])
def test_a_bound_that_is_no_size_is_a_sentence_and_the_usual_one_holds(
    told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(LIMIT, told)
    with pytest.raises(ConfigError, match=f"{LIMIT} is '{told}', expected a number of MB"):
        check_bound(1)
    (front,) = middlewares()
    assert front.args == (ServiceSettings(checkpoint=["run"]).max_body_mb,)
    assert "expected a number of MB" in caplog.text
