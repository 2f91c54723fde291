"""The client against a stand-in of the service (`stub`, in conftest.py): what it asks, again or not, and what it keeps."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import tracemalloc
from email.utils import formatdate
from pathlib import Path
from typing import Any, get_args

import pytest

from momu_dist.client import Client, Job, ServiceError, asking
from momu_dist.client.jobs import RECORD, names_of
from momu_dist.errors import ConfigError, DataError, MomuError

A2M = "/v1/generate/music-to-motion"


class Waits(list[float]):
    """What a client has waited, in s; one that waits for ever fails."""

    def append(self, seconds: float) -> None:
        assert len(self) < 100
        super().append(seconds)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(b"RIFF a song")
    return path


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def client(stub: Any, waits: Waits) -> Client:
    """A client that notes its waits and does not wait."""
    return Client(stub.url, wait=waits.append)


def test_importing_it_takes_none_of_the_services_libraries() -> None:
    heavy = {"torch", "ray", "fastapi", "numpy", "pydantic", "starlette", "librosa"}
    code = f"import sys, momu_dist.client; print(sorted({heavy!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_it_knows_the_settings_formats_and_paths_of_the_service() -> None:
    from momu_dist.serving import items
    from momu_dist.serving.store_schema import steps_of

    names = {name for kind in (items.FromMusic, items.FromMotion, items.Joint) for name in kind.model_fields}
    assert set(asking.SETTINGS) == names
    assert items.PATHS == asking.PATHS
    assert set(asking.FORMATS) == set(get_args(items.Format))
    types = {form: kind.partition(";")[0] for form, kind in items.MEDIA_TYPES.items()}
    assert {ending: kind for kind, ending in asking.ENDINGS.items()} == {**types, "zip": items.ZIP}
    assert items.Settings().format == asking.DEFAULT_FORMAT and items.Settings().steps == asking.DEFAULT_STEPS
    for settings in (
        {},
        {"steps": 20, "n": 3},
        {"steps": 20, "sampler": "dpm++"},
        {"steps": 20, "sampler": "ddpm", "n": 2},
    ):
        own = items.Settings.model_validate(settings)
        assert asking.steps_of(settings) == steps_of(own.model_dump()) == own.n * own.steps_each
    assert asking.steps_of({"steps": 20, "sampler": "ddpm", "n": 2}) == 2000


def test_generate_sends_the_input_and_what_is_set(client: Client, stub: Any, song: Path) -> None:
    given = client.generate("a2m", song, format="npz", seed=7, guidance=2.5, seconds=None)
    (asked,) = stub.asked
    assert (asked.method, asked.path, asked.body) == ("POST", A2M, song.read_bytes())
    assert asked.query == {"format": "npz", "seed": "7", "guidance": "2.5"}
    assert given == stub.made(asked)
    assert client.generate("a2m", song.read_bytes(), format="npz", seed=7, guidance=2.5) == given
    assert client.generate("a2m", str(song), format="npz", seed=7, guidance=2.5) == given


def test_joint_sends_no_body_and_a_file_id_stands_for_an_input(client: Client, stub: Any) -> None:
    client.generate("joint", seconds=4, gamma=0.25)
    client.generate("m2a", file="f" * 32, fps=30, format="wav")
    joint, m2a = stub.asked
    assert (joint.path, joint.body, joint.query) == (
        "/v1/generate/joint",
        b"",
        {"seconds": "4", "gamma": "0.25"},
    )
    assert (m2a.path, m2a.body, m2a.query["file"]) == ("/v1/generate/motion-to-music", b"", "f" * 32)


@pytest.mark.parametrize(
    ("name", "settings", "asked"),
    [
        ("a.wav", {}, "wav"),
        ("a.NPZ", {}, "npz"),
        ("new/folder/a.mp4", {"n": 1}, "mp4"),
        ("a.csv", {"format": "csv"}, "csv"),
        ("a.zip", {"n": 2}, "mp4"),
        ("a.zip", {"n": 2, "format": "png"}, "png"),
    ],
)
def test_the_ending_of_the_file_is_the_format(
    name: str, settings: dict[str, Any], asked: str, client: Client, stub: Any, song: Path
) -> None:
    path = client.generate_to(song.parent / name, "a2m", song, **settings)
    assert stub.asked[0].query["format"] == asked
    assert path.read_bytes() == stub.made(stub.asked[0])


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("a.mov", {}, "has the ending '.mov', expected one of wav, npz, json, bvh, csv, mp4, png"),
        ("a", {}, "has the ending ''"),
        ("a.zip", {}, "has the ending '.zip'"),
        ("a.mp4", {"n": 3}, "is to hold several samples, expected the ending .zip"),
        ("a.mp4", {"format": "wav"}, "expected .wav"),
        (".", {}, "is a folder"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_unasked(
    name: str, settings: dict[str, Any], sentence: str, client: Client, stub: Any, song: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        client.generate_to(song.parent / name, "a2m", song, **settings)
    assert sentence in str(caught.value) and not stub.asked


@pytest.mark.parametrize(
    ("task", "source", "settings", "sentence"),
    [
        ("dance", None, {}, "the task is 'dance', expected m2a, a2m or joint"),
        ("a2m", None, {}, "task a2m is given no input"),
        ("a2m", b"x", {"file": "f" * 32}, "is given 2 inputs"),
        ("joint", b"x", {"seconds": 3}, "is given 1 input, expected none"),
        ("a2m", b"", {}, "holds no bytes"),
        ("a2m", b"x", {"step": 3}, "there is no setting 'step', expected format, seconds"),
        ("a2m", "no-such.wav", {}, "no-such.wav does not exist"),
        ("m2a", ".", {}, ". is no file"),
        ("m2a", "/dev/null", {}, "is no file"),
    ],
)
def test_what_cannot_be_asked_is_refused_unasked(
    task: str,
    source: str | bytes | None,
    settings: dict[str, Any],
    sentence: str,
    client: Client,
    stub: Any,
) -> None:
    with pytest.raises(MomuError) as caught:
        client.generate(task, source, **settings)
    assert sentence in str(caught.value) and not stub.asked


def test_the_token_is_sent_and_shown_nowhere(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMU_SERVE_TOKEN", "from-the-environment\n")
    Client(stub.url).models()
    client = Client(stub.url, "s3cret-given")
    stub.plan["/v1/models"] = [stub.error(401, "the token is not the service's")]
    with pytest.raises(ServiceError, match="was given another; give it with --token-file") as caught:
        client.models()
    stub.plan["/v1/models"] = [stub.error(401, "no token is given")]
    with pytest.raises(
        ServiceError, match="was given none; give it with --token-file, or as MOMU_SERVE_TOKEN"
    ):
        Client(stub.url, "").models()
    del stub.asked[-1]
    sent = [asked.headers["Authorization"] for asked in stub.asked]
    assert sent == ["Bearer from-the-environment", "Bearer s3cret-given"]
    job = client.job("a" * 32)
    assert not any("s3cret" in shown for shown in (str(caught.value), repr(client), repr(job)))
    with pytest.raises(ConfigError) as refused:
        Client(stub.url, "s3cret given\r\nX-Other: 1")
    assert "s3cret" not in str(refused.value)


def test_without_a_token_none_is_sent_whatever_the_users_netrc_says(
    stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client = Client(stub.url)
    client._connection._session.trust_env = True  # as for a service elsewhere
    client.models()
    assert "Authorization" not in stub.asked[0].headers


def test_a_sites_proxy_is_not_asked_for_this_machine(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Client(stub.url).ready()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host/?a=1", "http://host:port", "http://[::1"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="the service's URL"):
        Client(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        Client("http://me:s3cret@host")
    assert "s3cret" not in str(caught.value)


def test_a_busy_service_is_asked_again_after_the_time_that_it_says(
    client: Client, stub: Any, waits: Waits, song: Path
) -> None:
    busy = stub.error(429, "the queue is full", Retry_After="7")
    stub.plan[A2M] = [busy, busy]
    assert client.generate("a2m", song) == stub.made(stub.asked[-1])
    assert len(waits) == 2 and all(7 <= wait <= 7 * 1.25 for wait in waits)
    assert waits[0] != waits[1], "clients that were turned away together would come back together"
    assert [asked.body for asked in stub.asked] == [song.read_bytes()] * 3


def test_a_service_that_is_not_ready_is_waited_for_until_its_date(
    client: Client, stub: Any, waits: Waits
) -> None:
    stub.plan["/v1/models"] = [
        stub.error(503, "no model is ready", Retry_After=formatdate(time.time() + 60, usegmt=True))
    ]
    client.models()
    assert len(waits) == 1 and 55 < waits[0] <= 60 * 1.25


@pytest.mark.parametrize("retry_after", ["0", "-3", "nan", "inf", "soon", ""])
def test_without_a_time_that_it_says_the_pauses_grow(
    retry_after: str, client: Client, stub: Any, waits: Waits
) -> None:
    stub.plan["/v1/models"] = [stub.error(429, "the queue is full", Retry_After=retry_after)] * 4
    client.models()
    assert len(waits) == 4 and waits == sorted(waits) and 0 < waits[0] < 1


@pytest.mark.parametrize("retry_after", ["0", "9", "1000"])
def test_patience_ends_with_the_services_own_sentence(
    retry_after: str, stub: Any, waits: Waits, song: Path
) -> None:
    stub.plan[A2M] = [stub.error(429, "the queue is full", Retry_After=retry_after)] * 1000
    with pytest.raises(ServiceError) as caught:
        Client(stub.url, patience_s=30, wait=waits.append).generate("a2m", song)
    assert (str(caught.value), caught.value.status) == ("the queue is full", 429)
    assert sum(waits) <= 30 and len(stub.asked) == len(waits) + 1


def test_generate_is_sent_again_whole_when_the_connection_breaks(
    client: Client, stub: Any, waits: Waits, song: Path
) -> None:
    client.models()  # else the address would be given up soon
    stub.plan[A2M] = ["drop", "truncate", stub.Answer(502, b"<html>", "text/html")]
    assert client.generate("a2m", song) == stub.made(stub.asked[-1])
    assert [asked.body for asked in stub.calls(A2M)] == [song.read_bytes()] * 4
    assert len(waits) == 3


def test_a_file_that_broke_off_is_fetched_again_and_never_seen(client: Client, stub: Any, song: Path) -> None:
    stub.plan[A2M] = ["truncate"]
    path = client.generate_to(song.parent / "out" / "a.mp4", "a2m", song)
    assert path.read_bytes() == stub.made(stub.asked[-1]) and len(stub.asked) == 2
    stub.plan[A2M] = ["truncate"] * 1000
    with pytest.raises(ServiceError, match=r"the connection to .* broke \(.*\); try again"):
        client.generate_to(song.parent / "out" / "b.mp4", "a2m", song)
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


def test_a_large_file_goes_to_the_disk_in_pieces(client: Client, stub: Any, song: Path) -> None:
    large = bytes(32 << 20)
    stub.made = lambda _: large
    tracemalloc.start()
    try:
        path = client.generate_to(song.parent / "a.mp4", "a2m", song)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == len(large) and peak < len(large) / 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_address_where_nothing_answers_is_given_up_soon(waits: Waits) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceError, match=rf"no service answers at {url} \(Connection refused\)"):
        Client(url, wait=waits.append).models()
    assert len(waits) >= 1 and sum(waits) <= 3


def test_a_service_that_restarts_is_waited_for(stub: Any) -> None:
    waits = Waits()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) > 10:
            stub.start()

    client = Client(stub.url, wait=wait)
    client.models()
    stub.stop()
    client._connection.renew()
    assert client.models() and sum(waits) > 10


def test_a_service_that_says_nothing_ends_the_call_by_its_time(stub: Any, song: Path, waits: Waits) -> None:
    def slow(_: Any) -> bytes:
        time.sleep(0.1)
        return b""

    stub.made = slow
    # The time of the call counts as waited, so that none is left for the first pause, of 0.1 s or more.
    with pytest.raises(ServiceError, match="has not answered within 0.06 s"):
        Client(stub.url, timeout_s=0.06, patience_s=0.15, wait=waits.append).generate("a2m", song)
    assert not waits


def test_what_the_service_refuses_is_raised_as_it_says_it_and_once(
    client: Client, stub: Any, song: Path, waits: Waits
) -> None:
    for status in (400, 404, 413, 422, 500, 504):
        stub.asked.clear()
        stub.plan[A2M] = [stub.error(status, f"sentence of {status}")]
        with pytest.raises(ServiceError) as caught:
            client.generate("a2m", song)
        assert (str(caught.value), caught.value.status) == (f"sentence of {status}", status)
        assert len(stub.asked) == 1 and not waits


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"", b"[1]", b'{"error": 3}', b'{"error": " "}', b'{"detail": "x"}', b"\xff"],
)
def test_an_error_that_is_not_the_services_names_the_address(body: bytes, client: Client, stub: Any) -> None:
    stub.plan["/v1/models"] = [stub.Answer(404, body, "text/html")]
    with pytest.raises(ServiceError, match=f"{stub.url}/v1/models answered 404 .*; see that momu's service"):
        client.models()


def test_an_answer_that_is_none_of_the_services_is_no_result(client: Client, stub: Any, song: Path) -> None:
    login = stub.Answer(200, b"<html>log in</html>", "text/html")
    stub.plan["/v1/models"], stub.plan[A2M] = [login], [login, stub.Answer(200, b"x", "audio/wav")]
    with pytest.raises(ServiceError, match="answered no JSON"):
        client.models()
    with pytest.raises(ServiceError, match="the answer is of type 'text/html'"):
        client.generate_to(song.parent / "a.mp4", "a2m", song)
    with pytest.raises(ServiceError, match="answered a wav file, expected mp4"):
        client.generate_to(song.parent / "a.mp4", "a2m", song)
    assert not (song.parent / "a.mp4").exists()


def test_a_sentence_does_nothing_to_a_terminal(client: Client, stub: Any) -> None:
    stub.plan["/v1/models"] = [stub.error(422, "a\x1b[2J\nb" + "c" * 5000)]
    with pytest.raises(ServiceError) as caught:
        client.models()
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 1000


def test_a_redirect_is_not_followed_with_the_token(client: Client, stub: Any, song: Path) -> None:
    stub.plan[A2M] = [stub.Answer(308, headers={"Location": "https://elsewhere.example/"})]
    with pytest.raises(ServiceError, match="it is at https://elsewhere.example/; give the URL of that"):
        client.generate("a2m", song)


def test_ready_is_asked_once(stub: Any, client: Client, waits: Waits) -> None:
    assert client.ready() is True
    stub.ready = False
    assert client.ready() is False
    assert Client(f"http://127.0.0.1:{free_port()}", wait=waits.append).ready() is False
    assert not waits


def test_upload_gives_the_services_id(client: Client, stub: Any, song: Path) -> None:
    stub.plan["/v1/files"] = ["truncate"]
    assert stub.files[client.upload(song)] == song.read_bytes()


def test_a_batch_sends_each_content_once(client: Client, stub: Any, song: Path) -> None:
    same, other = song.with_name("same.wav"), song.with_name("other.wav")
    same.write_bytes(song.read_bytes())
    other.write_bytes(b"another song")
    seen: list[tuple[int, int]] = []
    job = client.batch(
        [
            {"task": "a2m", "input": song, "seed": 1, "id": "first"},
            {"task": "a2m", "input": str(song), "seed": 2, "fps": None},
            {"task": "a2m", "input": same},
            {"task": "m2a", "input": other, "format": "wav"},
            {"task": "joint", "seconds": 4.5},
            {"task": "a2m", "file": "f" * 32},
        ],
        lambda *counts: seen.append(counts),
    )
    assert sorted(stub.files.values()) == sorted([song.read_bytes(), b"another song"])
    assert seen == [(1, 3), (2, 3), (3, 3)]
    first, second = "0".zfill(32), "1".zfill(32)
    assert stub.jobs[job.id].lines == [
        {"task": "a2m", "seed": 1, "id": "first", "file": first},
        {"task": "a2m", "seed": 2, "file": first},
        {"task": "a2m", "file": first},
        {"task": "m2a", "format": "wav", "file": second},
        {"task": "joint", "seconds": 4.5},
        {"task": "a2m", "file": "f" * 32},
    ]


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"task": "a2m"}, "item 2 of the batch: task a2m is given no input"),
        ({"task": "a2m", "input": "no-such.wav"}, "item 2 of the batch: no-such.wav does not exist"),
        ({"task": "a2m", "input": 3}, "item 2 of the batch: its input is 3"),
        ({"task": "joint", "second": 3}, "item 2 of the batch: there is no setting 'second'"),
        ({"task": ["joint"]}, "item 2 of the batch: the task is ['joint']"),
        ({}, "item 2 of the batch: the task is None"),
        ({"task": "joint", "seconds": float("nan")}, "item 2 of the batch is no JSON"),
        ({"task": "joint", "seconds": {1}}, "item 2 of the batch is no JSON"),
    ],
)
def test_all_items_are_looked_at_before_any_is_sent(
    item: dict[str, Any], sentence: str, client: Client, stub: Any, song: Path
) -> None:
    with pytest.raises(MomuError) as caught:
        client.batch([{"task": "a2m", "input": song}, item])
    assert sentence in str(caught.value) and not stub.asked


def test_an_empty_batch_is_refused(client: Client) -> None:
    with pytest.raises(DataError, match="holds no item"):
        client.batch([])


JOINT = {"task": "joint", "seconds": 2}


@pytest.mark.parametrize("fault", ["drop", "truncate", "gateway"])
def test_a_batch_that_may_have_arrived_is_not_sent_again(
    fault: str, client: Client, stub: Any, waits: Waits
) -> None:
    client.models()
    stub.plan["/v1/batch"] = [stub.Answer(502, b"", "text/html") if fault == "gateway" else fault]
    with pytest.raises(ServiceError, match="may have arrived or not"):
        client.batch([JOINT])
    assert len(stub.calls("/v1/batch")) == 1 and not waits


def test_a_batch_goes_over_a_connection_that_has_not_idled(client: Client, stub: Any) -> None:
    for _ in range(2):
        client.models()
    client.batch([JOINT])
    first, second, batch = (asked.port for asked in stub.asked)
    assert first == second != batch


def test_a_batch_that_was_not_taken_is_sent_again(client: Client, stub: Any, waits: Waits) -> None:
    stub.plan["/v1/batch"] = [
        stub.error(429, "the queue is full", Retry_After="2"),
        stub.error(503, "no model is ready"),
    ]
    job = client.batch([JOINT])
    assert list(stub.jobs) == [job.id] and len(waits) == 2


def test_a_batch_that_found_no_connection_is_sent_again(stub: Any) -> None:
    client = Client(stub.url, wait=lambda _: stub.start())
    client.models()
    stub.stop()
    job = client.batch([JOINT])
    assert list(stub.jobs) == [job.id] and len(stub.calls("/v1/batch")) == 1


def test_a_job_is_followed_to_its_end(client: Client, stub: Any, waits: Waits) -> None:
    stub.pace = 1
    job = client.batch([{**JOINT, "seed": seed} for seed in range(4)])
    stub.plan[f"/v1/jobs/{job.id}"] = [None, "drop", stub.error(503, "the service starts", Retry_After="0")]
    seen: list[float] = []
    state = job.wait(lambda state: seen.append(state.progress))
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert state.ended and state.items["done"] == 4 and len(waits) >= 3
    assert Job.state(client.job(job.id)) == state


def test_waiting_ends_with_a_cancelled_job(client: Client, stub: Any) -> None:
    stub.pace = 1
    job = client.batch([{**JOINT, "seed": seed} for seed in range(3)])
    state = job.wait(lambda state: None if state.ended else void(job.cancel()))
    assert (state.state, state.items["done"], state.items["cancelled"]) == ("cancelled", 1, 2)


def void(_: object) -> None:
    pass


def test_a_state_of_another_release_is_a_sentence(client: Client, stub: Any) -> None:
    stub.plan[f"/v1/jobs/{'a' * 32}"] = [stub.Answer(200, b'{"id": "x"}')]
    with pytest.raises(ServiceError, match="the service's answer is no JobState"):
        client.job("a" * 32).state()


@pytest.mark.parametrize("id", ["", "../../v1/models", "A" * 32, "a" * 33, f"{'a' * 32}\n"])
def test_what_is_no_id_is_refused(id: str, client: Client, stub: Any) -> None:
    with pytest.raises(ConfigError, match="is no id of a job"):
        client.job(id)
    assert not stub.asked


def done_job(client: Client, *items: dict[str, Any]) -> Job:
    job = client.batch([{**JOINT, "seed": seed, **item} for seed, item in enumerate(items)])
    job.wait()
    return job


def test_results_are_fetched_once(client: Client, stub: Any, tmp_path: Path) -> None:
    job = done_job(client, {"id": "a"}, {"format": "wav"}, {"id": "bad"}, {"n": 2, "id": "d"})
    seen: list[str] = []
    paths = job.results(tmp_path / "out", lambda path: seen.append(path.name))
    assert {index: path.name for index, path in paths.items()} == {0: "a.mp4", 1: "1.wav", 3: "d.zip"}
    assert seen == ["a.mp4", "1.wav", "d.zip"]
    assert all(path.read_bytes() == stub.jobs[job.id].result(index) for index, path in paths.items())
    asked = len(stub.calls("/v1/jobs/.*/items/.*"))
    assert job.results(tmp_path / "out") == paths
    assert len(stub.calls("/v1/jobs/.*/items/.*")) == asked == 3


def test_results_go_on_where_they_broke_off(client: Client, stub: Any, tmp_path: Path) -> None:
    job = done_job(client, {}, {}, {})
    path = f"/v1/jobs/{job.id}/items/1"
    stub.plan[path] = ["truncate"] * 1000
    with pytest.raises(ServiceError):
        job.results(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [RECORD, "0.mp4"]
    stub.plan[path] = ["truncate"]
    (tmp_path / "0.mp4").write_bytes(b"cut by a full disk")
    paths = job.results(tmp_path)
    assert [path.read_bytes() for path in paths.values()] == [
        stub.jobs[job.id].result(index) for index in range(3)
    ]


def test_results_of_a_running_job_are_those_that_are_done(client: Client, stub: Any, tmp_path: Path) -> None:
    stub.pace = 1
    job = client.batch([{**JOINT, "seed": seed} for seed in range(3)])
    job.state()
    assert list(job.results(tmp_path)) == [0]
    job.wait()
    assert list(job.results(tmp_path)) == [0, 1, 2]
    assert len(stub.calls("/v1/jobs/.*/items/0")) == 1


def test_an_answer_shorter_than_the_service_said_is_no_result(
    client: Client, stub: Any, tmp_path: Path
) -> None:
    job = done_job(client, {})
    stub.plan[f"/v1/jobs/{job.id}/items/0"] = [stub.Answer(200, b"short", "video/mp4")]
    assert job.results(tmp_path)[0].read_bytes() == stub.jobs[job.id].result(0)


def test_a_folder_holds_the_results_of_one_job(client: Client, tmp_path: Path) -> None:
    first, second = done_job(client, {"id": "a"}), done_job(client, {"id": "a", "steps": 9})
    first.results(tmp_path)
    with pytest.raises(DataError, match=f"holds results of job {first.id}, not of {second.id}"):
        second.results(tmp_path)
    (tmp_path / RECORD).write_text('{"job": "../x"}')
    with pytest.raises(DataError, match="does not say which job"):
        second.results(tmp_path)


def test_all_pages_of_items_are_read(client: Client, stub: Any) -> None:
    job = done_job(client, *[{} for _ in range(250)])
    assert [item.index for item in job.items()] == list(range(250))
    assert len(stub.calls("/v1/jobs/.*/items")) == 3


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["../../etc/passwd", "/a/b", "..", ".job.json"], ["etc_passwd", "a_b", "2", "job.json"]),
        (["a", "a", "A"], ["a-0", "a-1", "A-2"]),
        (["a-1", "a", "a"], ["a-1", "a-1_", "a-2"]),
        (["für elise", "-rf", "a\x00b\n", "x" * 200], ["für_elise", "rf", "a_b", "x" * 50]),
        ([None] * 11, [f"{index:02}" for index in range(11)]),
        ([None, "0", "0"], ["0-0", "0-1", "0-2"]),
    ],
)
def test_names_are_safe_and_unlike_each_other(ids: list[str | None], names: list[str]) -> None:
    assert names_of(list(enumerate(ids))) == names


def test_a_batch_of_the_python_interface_ends_as_files(
    client: Client, stub: Any, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of the package's docstring."""
    monkeypatch.chdir(song.parent)
    client.generate_to("dance.mp4", "a2m", "song.wav", seed=7)
    job = client.batch([{"task": "a2m", "input": "song.wav", "seed": seed} for seed in range(3)])
    job.wait()
    assert sorted(path.name for path in job.results("dances").values()) == ["0.mp4", "1.mp4", "2.mp4"]
    assert json.loads((song.parent / "dances" / RECORD).read_text()) == {"job": job.id}
