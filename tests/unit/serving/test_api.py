"""The HTTP interface over played models: what is answered to what, and that nothing is let in beyond its bounds."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.requests import ClientDisconnect

from momu_dist.serving.service import Unavailable

GOOD = b"good music"
LIMIT_S = 10.0
M2A, A2M, JOINT = (f"/v1/generate/{name}" for name in ("motion-to-music", "music-to-motion", "joint"))


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + LIMIT_S
    while not (found := true()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
    return found


def job_of(client: Any, *lines: Any) -> str:
    body = "\n".join(json.dumps(line) for line in lines)
    answer = client.post("/v1/batch", content=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["items"] == len(lines)
    return str(answer.json()["id"])


@pytest.mark.parametrize(("path", "task"), [(M2A, "m2a"), (A2M, "a2m"), (JOINT, "joint")])
@pytest.mark.parametrize("format", ["wav", "npz", "json", "mp4"])
def test_a_sample_in_the_format_that_is_asked_for(opened, played, path: str, task: str, format: str) -> None:
    with opened() as client:
        query = {"format": format, "seconds": 8, "seed": 7, "steps": 20, "guidance": 2, "sampler": "dpm++"}
        answer = client.post(path, params=query, content=b"" if task == "joint" else GOOD)
    assert answer.status_code == 200 and answer.json() == f"{task}:7"
    assert answer.headers["content-disposition"].endswith(f'sample-7.{format}"')
    assert json.loads(answer.headers["x-momu-recipe"]) == {"task": task, "seed": 7}
    ((asked, settings),) = played.asked
    assert (asked, settings.steps, settings.guidance, settings.sampler) == (task, 20, 2.0, "dpm++")


def test_several_samples_come_as_a_zip(opened) -> None:
    with opened() as client:
        answer = client.post(JOINT, params={"seconds": 4, "n": 3})
    assert answer.headers["content-type"] == "application/zip"


@pytest.mark.parametrize(
    ("path", "query", "body", "status", "said"),
    [
        (A2M, {}, b"bad", 422, "no music"),
        (A2M, {"sedd": 1}, GOOD, 422, "sedd"),
        (A2M, {"seconds": "nan"}, GOOD, 422, "seconds"),
        (A2M, {"seconds": "1_0"}, GOOD, 422, "seconds: Input should be a number"),
        (A2M, {"seed": ["1", "2"]}, GOOD, 422, "'seed' is given 2 times, expected once"),
        (A2M, {"seconds": 121}, GOOD, 422, "at most 120 here"),
        (A2M, {"steps": 0}, GOOD, 422, "steps"),
        (A2M, {"guidance": "inf"}, GOOD, 422, "guidance"),
        (A2M, {"seed": 2**64}, GOOD, 422, "seed"),
        (A2M, {"sampler": "ddpm", "steps": 5}, GOOD, 422, "steps is 1000, expected at most 500 here"),
        (A2M, {"n": 9}, GOOD, 422, "at most 8 here"),
        (A2M, {"format": "exe"}, GOOD, 422, "format"),
        (A2M, {"gamma": 0.5}, GOOD, 422, "gamma"),
        (A2M, {"file": "../../etc/passwd"}, b"", 422, "file"),
        (A2M, {"file": "0" * 32}, b"", 404, "no file"),
        (M2A, {"fps": -1}, GOOD, 422, "fps"),
        (JOINT, {}, b"", 422, "seconds"),
        (JOINT, {"seconds": 5, "gamma": 2}, b"", 422, "gamma"),
        (A2M, {}, b"x" * (2**20 + 1), 413, "at most 1 MB"),
        ("/v1/generate/nothing", {}, b"", 404, "no such page"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(opened, played, path, query, body, status, said) -> None:
    with opened(max_body_mb=1, max_steps=500) as client:
        answer = client.post(path, params=query, content=body)
    assert answer.status_code == status and said in answer.json()["error"]
    assert "\n" not in answer.json()["error"] and "/state" not in answer.text
    assert not played.asked


@pytest.mark.parametrize(
    ("path", "query", "status", "chunks"),
    [
        (A2M, {}, 413, 11),
        ("/v1/files", {}, 413, 11),
        ("/v1/batch", {}, 413, 11),
        (JOINT, {"seconds": 4}, 422, 1),
        (A2M, {"file": "0" * 32}, 422, 1),
    ],
)
def test_a_body_without_an_end_is_not_read_to_it(opened, path, query, status, chunks) -> None:
    read = []

    async def endless() -> dict[str, Any]:
        read.append(1)
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": len(read) < 1000}

    with opened(max_body_mb=1) as client:
        assert client.portal.call(posted, client.app, path, query, endless) == status
    assert len(read) == chunks


@pytest.mark.parametrize(
    ("path", "query"), [(A2M, {}), ("/v1/files", {}), ("/v1/batch", {}), (JOINT, {"seconds": 4})]
)
def test_bodies_that_come_slowly_keep_nobody_waiting_and_are_given_up(opened, path, query) -> None:
    """Many more than there are places in the queue, or for what is kept."""
    coming = []

    async def never() -> dict[str, Any]:
        coming.append(1)
        await asyncio.sleep(LIMIT_S)
        raise AssertionError("it was not given up")

    async def slowly(client: Any) -> list[int]:
        slow = [asyncio.create_task(posted(client.app, path, query, never)) for _ in range(20)]
        while len(coming) < len(slow):
            await asyncio.sleep(0.01)
        quick = [await posted(client.app, A2M, {}, whole), await posted(client.app, "/v1/files", {}, whole)]
        assert not any(one.done() for one in slow)
        return [*quick, *[await one for one in slow]]

    with opened(queue=2, receive_s=2, deadline_s=60) as client:
        assert client.portal.call(slowly, client) == [200, 201] + [408] * 20


async def whole() -> dict[str, Any]:
    return {"type": "http.request", "body": GOOD, "more_body": False}


def test_a_full_queue_awaits_no_body(opened, played) -> None:
    async def never() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    async def ask(client: Any) -> int:
        played.hold = asyncio.Event()
        first = asyncio.create_task(posted(client.app, A2M, {}, whole))
        while not client.service.inside:
            await asyncio.sleep(0.01)
        status = await posted(client.app, A2M, {}, never)
        played.hold.set()
        assert await first == 200
        return status

    with opened(queue=1) as client:
        assert client.portal.call(ask, client) == 429


async def posted(app: Any, path: str, query: dict[str, Any], receive: Any) -> int:
    """The status of a request whose body comes as `receive` gives it; the test client would wait for all of it."""
    said: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "", "headers": [],
        "query_string": urlencode(query).encode(), "scheme": "http", "http_version": "1.1", "server": ("test", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return said[0]


def test_a_full_queue_is_429_and_has_room_again(opened, played) -> None:
    with opened(queue=3) as client:
        played.hold = asyncio.Event()
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post(JOINT, params={"seconds": 4})))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        until(lambda: client.service.inside == 3)
        refused = client.post(JOINT, params={"seconds": 4})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert "at most 3" in refused.json()["error"]
        client.portal.call(played.hold.set)
        for thread in threads:
            thread.join(LIMIT_S)
        assert [answer.status_code for answer in answers] == [200] * 3
        assert client.service.inside == 0
        assert client.post(JOINT, params={"seconds": 4}).status_code == 200


def test_a_request_larger_than_the_queue_is_taken_when_nothing_else_is(opened) -> None:
    with opened(queue=2) as client:
        assert client.post(JOINT, params={"seconds": 4, "n": 4}).status_code == 200


def test_a_deadline_is_504_and_frees_the_place(opened, played) -> None:
    with opened(deadline_s=0.2) as client:
        played.hold = asyncio.Event()
        answer = client.post(JOINT, params={"seconds": 4})
        assert answer.status_code == 504 and "0.2 s" in answer.json()["error"]
        assert client.service.inside == 0 and played.closed == 1


def test_no_models_are_503(opened, played) -> None:
    played.fault = Unavailable("the models are not loaded yet; try again.")
    with opened() as client:
        for answer in (
            client.get("/readyz"),
            client.get("/v1/models"),
            client.post(JOINT, params={"seconds": 4}),
        ):
            assert answer.status_code == 503 and answer.headers["retry-after"]
        assert client.get("/healthz").status_code == 200
        played.fault = None
        assert client.get("/readyz").json() == {"state": "ready"}
        assert client.get("/v1/models").json()["limits"]["max_seconds"] == 120


def test_it_is_not_ready_while_no_sampler_comes_further(opened, played) -> None:
    with opened(stall_s=0.3) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        played.hold = asyncio.Event()
        asking = threading.Thread(target=lambda: client.post(JOINT, params={"seconds": 4}))
        asking.start()
        until(lambda: client.get("/readyz").status_code == 503)
        stalled = client.get("/readyz")
        assert "no sampler has come further for" in stalled.json()["error"] and stalled.headers["retry-after"]
        assert client.get("/healthz").status_code == client.get("/v1/models").status_code == 200
        client.portal.call(played.hold.set)
        asking.join(LIMIT_S)
        assert client.get("/readyz").status_code == 200
        time.sleep(0.4)  # nothing to do is no stall
        assert client.get("/readyz").status_code == 200


def test_another_replica_takes_over_a_request_and_the_runner_an_item(opened, played) -> None:
    with opened() as client:
        played.deaths = 2
        assert client.post(JOINT, params={"seconds": 4}).status_code == 200
        played.deaths = 3
        assert client.post(JOINT, params={"seconds": 4}).status_code == 503
        assert len(played.asked) == 6
        played.deaths = 4
        job = job_of(client, {"task": "joint", "seconds": 4})
        state = until(lambda: (s := client.get(f"/v1/jobs/{job}").json())["state"] == "done" and s)
        assert state["items"]["failed"] == 1 and played.kinds == ["request"] * 6 + ["job"] * 4


def test_an_item_past_the_deadline_is_tried_again(opened, played) -> None:
    with opened(deadline_s=0.1) as client:
        played.hold = asyncio.Event()
        job = job_of(client, {"task": "joint", "seconds": 4})
        state = until(lambda: (s := client.get(f"/v1/jobs/{job}").json())["state"] == "done" and s)
        assert len(played.asked) == played.closed == 4 and "TimeoutError" in state["errors"][0]["error"]


def test_an_input_is_read_as_far_as_is_asked(opened, played) -> None:
    with opened(max_seconds=50) as client:
        client.post(A2M, content=GOOD)
        client.post(M2A, params={"seconds": 8, "fps": 30}, content=GOOD)
    assert played.read_as == [(None, 50, None), (30, 50, 8)]


def test_a_token_guards_all_that_is_made_or_kept(opened) -> None:
    token = "f" * 32
    with opened(token=token) as client:
        for path in ("/v1/models", "/metrics", f"/v1/jobs/{'0' * 32}"):
            refused = client.get(path)
            assert "no token is given" in refused.json()["error"]
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert token not in refused.text
            assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code != 401
            for wrong in (
                f"Bearer {token}0",
                token,
                "Bearer ",
                f"Basic {token}",
                "Bearer \xe4".encode("latin-1"),
            ):
                assert client.get(path, headers={"Authorization": wrong}).status_code == 401
            wrong = client.get(path, headers={"Authorization": "Bearer other"}).json()["error"]
            assert "the token is not the one of this service" in wrong
        assert client.post(JOINT, params={"seconds": 4}).status_code == 401
        page = client.get("/openapi.json").json()
        (scheme,) = page["components"]["securitySchemes"]
        open_to_all = [
            path for path, ways in page["paths"].items() for way in ways.values() if "security" not in way
        ]
        assert page["components"]["securitySchemes"][scheme]["scheme"] == "bearer"
        assert open_to_all == ["/healthz", "/readyz"]
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_what_happened_is_counted(opened) -> None:
    with opened(max_body_mb=1) as client:
        client.post(JOINT, params={"seconds": 4})
        client.post(JOINT)
        client.post("/v1/files", content=bytes(2**20 + 1))
        client.get("/no/such/page")
        text = client.get("/metrics").text
    assert 'momu_requests_total{code="200",path="/v1/generate/joint"} 1.0' in text
    assert 'momu_requests_total{code="422",path="/v1/generate/joint"} 1.0' in text
    assert 'momu_requests_total{code="413",path="/v1/files"} 1.0' in text
    assert 'path="none"' in text and "/no/such/page" not in text
    assert 'momu_generate_seconds_count{task="joint"} 1.0' in text
    assert "momu_samples_inside 0.0" in text and "momu_items_pending 0.0" in text


def test_a_fault_of_the_service_is_counted_as_what_it_is_answered_with(opened, played) -> None:
    with opened() as client:
        played.fault = RuntimeError("what nobody thought of")
        with pytest.raises(RuntimeError, match="nobody thought of"):  # Serve logs it
            client.post(JOINT, params={"seconds": 4})
        text = client.get("/metrics").text
    assert 'momu_requests_total{code="500",path="/v1/generate/joint"} 1.0' in text


def test_a_fault_behind_the_begin_of_an_answer_is_counted_once(opened, monkeypatch) -> None:
    def torn(_: Any) -> Any:
        yield b"the begin"
        raise RuntimeError("the disk went")

    monkeypatch.setattr("momu_dist.serving.jobs_api._chunks", torn)
    with opened() as client:
        job = job_of(client, {"task": "joint", "seconds": 4})
        until(lambda: client.get(f"/v1/jobs/{job}").json()["items"]["done"] == 1)
        with pytest.raises(RuntimeError, match="the disk went"):
            client.get(f"/v1/jobs/{job}/items/0")
        text = client.get("/metrics").text
    assert 'momu_requests_total{code="200",path="/v1/jobs/{job}/items/{index}"} 1.0' in text
    assert 'code="500"' not in text


def test_who_hangs_up_while_the_body_comes_is_no_fault_of_the_service(opened) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with opened() as client:
        with pytest.raises(ClientDisconnect):
            client.portal.call(posted, client.app, A2M, {}, gone)
        assert 'code="500"' not in client.get("/metrics").text


# -- uploads and jobs --------------------------------------------------------------------------------------------------


def test_an_upload_serves_many_requests(opened) -> None:
    with opened() as client:
        kept = client.post("/v1/files", content=GOOD)
        assert kept.status_code == 201 and kept.json()["bytes"] == len(GOOD)
        for seed in (1, 2):
            answer = client.post(A2M, params={"file": kept.json()["id"], "seed": seed})
            assert answer.json() == f"a2m:{seed}"
        assert client.post("/v1/files", content=b"").status_code == 422
        client.service.store.file(kept.json()["id"]).unlink()  # it expires between two looks
        assert client.post(A2M, params={"file": kept.json()["id"]}).status_code == 404


def test_a_plus_in_a_query_may_be_a_plus(opened, played) -> None:
    with opened() as client:
        assert client.post(f"{JOINT}?seconds=4&sampler=dpm++").status_code == 200
    assert played.asked[0][1].sampler == "dpm++"


def test_health_can_be_asked_for_without_an_answer(opened) -> None:
    with opened() as client:
        assert [client.head(page).status_code for page in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize("path", [A2M, "/v1/files", "/v1/batch"])
def test_a_form_is_not_taken_for_a_file(opened, path: str) -> None:
    with opened() as client:
        refused = client.post(path, files={"file": ("song.wav", GOOD)})
        assert refused.status_code == 415 and "--data-binary" in refused.json()["error"]


@pytest.mark.parametrize("type", ["multipart/form-data", "multipart/form-data; boundary=x", "text/plain"])
def test_a_file_is_taken_whatever_its_type_says(opened, type: str) -> None:
    with opened() as client:
        assert client.post(A2M, content=GOOD, headers={"Content-Type": type}).status_code == 200


def test_a_job_is_made_and_fetched(opened) -> None:
    with opened() as client:
        file = client.post("/v1/files", content=GOOD).json()["id"]
        job = job_of(
            client,
            {"task": "joint", "seconds": 4, "seed": 1, "id": "one", "format": "wav"},
            {"task": "a2m", "file": file, "seed": 2},
            {"task": "m2a", "file": file, "seed": 3, "format": "npz", "n": 2},
        )
        state = until(lambda: (s := client.get(f"/v1/jobs/{job}").json())["state"] == "done" and s)
        assert state["items"]["done"] == 3 and state["progress"] == 1 and not state["errors"]
        found = [client.get(f"/v1/jobs/{job}/items/{i}") for i in range(3)]
        assert [answer.json() for answer in found] == ["joint:1", "a2m:2", "m2a:3"]
        types = [answer.headers["content-type"].split(";")[0] for answer in found]
        assert types == ["audio/wav", "video/mp4", "application/zip"]
        recipes = [json.loads(answer.headers["x-momu-recipe"]) for answer in found]  # of several, the first's
        assert recipes == [
            {"task": task, "seed": seed} for task, seed in (("joint", 1), ("a2m", 2), ("m2a", 3))
        ]
        page = client.get(f"/v1/jobs/{job}/items", params={"limit": 2}).json()
        assert [item["id"] for item in page["items"]] == ["one", None] and page["next"] == 2
        rest = client.get(f"/v1/jobs/{job}/items", params={"offset": 2}).json()
        assert [item["index"] for item in rest["items"]] == [2] and rest["next"] is None
        assert client.get(f"/v1/jobs/{job}/items/3").status_code == 404
        path, *_ = client.service.store.result(job, 0)
        assert int(found[0].headers["content-length"]) == path.stat().st_size
        path.unlink()  # it expires between two looks
        assert client.get(f"/v1/jobs/{job}/items/0").status_code == 404


def test_a_result_from_before_recipes_were_kept_comes_without_one(opened) -> None:
    with opened() as client:
        job = job_of(client, {"task": "joint", "seconds": 4})
        until(lambda: client.get(f"/v1/jobs/{job}").json()["items"]["done"] == 1)
        client.service.store._db.execute("UPDATE items SET recipe = NULL")
        answer = client.get(f"/v1/jobs/{job}/items/0")
    assert answer.status_code == 200 and "x-momu-recipe" not in answer.headers


def test_a_bad_item_fails_alone(opened) -> None:
    with opened() as client:
        bad = client.post("/v1/files", content=b"bad").json()["id"]
        job = job_of(client, {"task": "a2m", "file": bad, "id": "x"}, {"task": "joint", "seconds": 4})
        state = until(lambda: (s := client.get(f"/v1/jobs/{job}").json())["state"] == "done" and s)
        assert state["items"]["failed"] == state["items"]["done"] == 1
        (error,) = state["errors"]
        assert error["index"] == 0 and error["id"] == "x" and "no music" in error["error"]
        refused = client.get(f"/v1/jobs/{job}/items/0")
        assert refused.status_code == 409 and "no music" in refused.json()["error"]


def test_a_full_disk_keeps_nothing_of_a_result(opened, monkeypatch) -> None:
    """What is written of a result that finds no room goes; the item waits, and is made when there is room."""
    left: list[int] = []

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:2])
        left.append(len(list(path.parent.iterdir())))
        if len(left) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return path.open("wb").write(content)

    with opened() as client, monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        job = job_of(client, {"task": "joint", "seconds": 4})
        until(lambda: client.get(f"/v1/jobs/{job}").json()["items"]["done"] == 1)
    assert left == [1, 1, 1, 1]


def test_no_more_is_kept_than_may_be(opened) -> None:
    """Uploads and batches are refused, jobs wait, what needs no room goes on; and when some has expired, so does the rest."""
    with opened(max_stored_gb=20 / 2**30) as client:
        file = client.post("/v1/files", content=GOOD * 2).json()["id"]
        for path, content in (("/v1/files", GOOD), ("/v1/batch", b'{"task": "joint", "seconds": 4}')):
            refused = client.post(path, content=content)
            assert refused.status_code == 507 and "GB of uploads and results" in refused.json()["error"]
            assert "/state" not in refused.text
        assert client.post(A2M, params={"file": file}).status_code == 200
        job = client.service.store.add_job([{"task": "joint", "seconds": 4}], 60.0)
        client.portal.call(client.service.wake)
        time.sleep(0.2)
        assert client.get(f"/v1/jobs/{job}").json()["items"]["done"] == 0
        client.service.store.stored = 0
        until(lambda: client.get(f"/v1/jobs/{job}").json()["items"]["done"] == 1)
        assert client.post("/v1/files", content=GOOD).status_code == 201


def test_a_full_disk_refuses_an_upload_in_a_sentence(opened, monkeypatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with opened() as client, monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        refused = client.post("/v1/files", content=GOOD)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert refused.json()["error"] == "the service cannot write to its disk; try again later."


def test_a_cancelled_job_stops_at_once(opened, played) -> None:
    with opened(jobs_at_once=2) as client:
        played.hold = asyncio.Event()
        job = job_of(client, *({"task": "joint", "seconds": 4, "seed": i} for i in range(5)))
        until(lambda: len(played.asked) == 2)
        assert client.get(f"/v1/jobs/{job}/items/0").status_code == 409
        assert client.delete(f"/v1/jobs/{job}").json()["state"] == "cancelled"
        until(lambda: played.closed == 2)
        refused = client.get(f"/v1/jobs/{job}/items/4").json()["error"]
        assert refused == "item 4 is cancelled, expected done; send it again in another job."
        assert client.get(f"/v1/jobs/{job}").json()["items"]["cancelled"] == 5
        assert len(played.asked) == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"{}", "line 1 cannot be used: 'task' is missing"),
        (b'{"task": "x"}', "'task' is none that is known, expected 'a2m', 'm2a', 'joint'"),
        (b"5", "line 1 cannot be used: it is no object"),
        (b'{"task": "joint", "seconds": true}', "seconds: Input should be a number"),
        (b'{"task": "joint", "seconds": 4}\nnot json', "line 2 is not JSON"),
        (b'{"task": "joint"}', "seconds"),
        (b'{"task": "joint", "seconds": NaN}', "line 1"),
        (b'{"task": "joint", "seconds": 4, "path": "/etc/passwd"}', "path"),
        (b'{"task": "a2m", "file": "/etc/passwd"}', "file"),
        (b'{"task": "a2m", "file": "' + b"0" * 32 + b'"}', "line 1"),
        (b'{"task": "joint", "seconds": 500}', "at most 120"),
        (b"[" * 100_000, "line 1"),
        (b"\xff\xfe", "line 1"),
        (b'{"task": "joint", "seconds": 4}\n' * 11, "at most 10"),
    ],
)
def test_a_batch_that_cannot_be_made_is_refused_whole(opened, body: bytes, said: str) -> None:
    with opened(max_items=10) as client:
        answer = client.post("/v1/batch", content=body)
        assert answer.status_code == 422 and said in answer.json()["error"], answer.text
        assert "momu_items_pending 0.0" in client.get("/metrics").text


def test_more_than_may_wait_is_429(opened, played) -> None:
    with opened(max_pending=3) as client:
        played.hold = asyncio.Event()
        item = {"task": "joint", "seconds": 4}
        job = job_of(client, item, item)
        assert client.post("/v1/batch", content="\n".join([json.dumps(item)] * 2)).status_code == 429
        client.delete(f"/v1/jobs/{job}")


@pytest.mark.parametrize("job", ["0" * 32, "../store.db", "%2e%2e%2fstore.db", "ä", "x" * 5000])
def test_jobs_that_are_not_there(opened, job: str) -> None:
    with opened() as client:
        for page in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/items", f"/v1/jobs/{job}/items/0"):
            assert client.get(page).status_code == 404
        assert client.delete(f"/v1/jobs/{job}").status_code == 404
        for index in (-1, 2**70):
            assert client.get(f"/v1/jobs/{'0' * 32}/items/{index}").status_code == 404
