"""What is sent to break the service, and what must come back: a client's error in a sentence that tells of no place here.

`FILES` are bodies that are no music and no motion, `WIRE` whole requests; `unrefused` sends such requests, `made_up` those
that schemathesis makes up.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from momu_dist.data.audio_io import encode_flac
from momu_dist.serving import reading

PLACES = [
    place
    for place in map(str, (Path(__file__).parents[3], Path.home(), tempfile.gettempdir(), sys.prefix))
    if len(place) > 1
]
"""Where things lie here; no answer may name one."""

A2M, M2A, JOINT = (f"/v1/generate/{name}" for name in ("music-to-motion", "motion-to-music", "joint"))
TIMEOUT_S = 60.0


class Case(NamedTuple):
    """A request as it goes over the wire."""

    method: str
    path: str
    body: bytes | Callable[[], bytes] = b""
    headers: Mapping[str, bytes] = {}


class Answer(NamedTuple):
    """What came back; `said` is all of it that a client can read."""

    status: int
    media: str
    body: bytes
    said: str


def ask(url: str, case: Case) -> Answer:
    """Send `case` as it is, with nothing made right on the way."""
    body = case.body if isinstance(case.body, bytes) else case.body()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        connection.putrequest(case.method, case.path, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)).encode(), **case.headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    said = f"{response.headers}\n{content.decode(errors='replace')}"
    return Answer(response.status, response.headers.get_content_type(), content, said)


def fault_of(answer: Answer) -> str | None:
    """What is wrong with the answer to a hostile request, None where nothing is."""
    if not 400 <= answer.status < 500:
        return f"{answer.status}: {answer.said}"
    try:
        ((name, sentence),) = json.loads(answer.body).items()
    except ValueError:
        name, sentence = "", ""
    is_sentence = isinstance(sentence, str) and sentence.endswith(".") and len(sentence.split()) > 3
    if answer.media != "application/json" or name != "error" or not is_sentence or "\n" in sentence:
        return f"no sentence: {answer.said}"
    return leak_in(answer.said)


def raw(url: str, sent: bytes) -> str:
    """What comes back for bytes that need be no HTTP."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(sent)
        came = bytearray()
        while chunk := connection.recv(65_536):
            came += chunk
    return came.decode(errors="replace")


def leak_in(said: str) -> str | None:
    """The words of an answer, where they tell of a place."""
    return f"a place: {said}" if any(place in said for place in [*PLACES, "momu-upload"]) else None


def unrefused(url: str, cases: Mapping[str, Case]) -> dict[str, str]:
    """Those of `cases` that are not refused as they should be, and how they were answered."""
    return {name: fault for name, case in cases.items() if (fault := fault_of(ask(url, case)))}


# -- requests made up from the interface's own page --------------------------------------------------------------------


# A body of bytes has no shape that a page could tell; what is in it is for the cases below.
NOT_OURS = [positive_data_acceptance, negative_data_rejection, unsupported_method]


def made_up(url: str, examples: int) -> list[int]:
    """The codes of the answers to `examples` requests a page, some right and some wrong; each is as the page says."""
    answers: list[int] = []
    for operation in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        for mode in schemathesis.GenerationMode:
            _make_up(operation.ok(), mode, examples, answers)
    return answers


def _make_up(operation: Any, mode: Any, examples: int, answers: list[int]) -> None:
    try:
        cases = operation.as_strategy(generation_mode=mode)
    except Exception as error:  # a page without anything to get wrong
        assert "negative" in str(error).lower(), error
        return

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def answered(case: Any) -> None:
        response = case.call(timeout=TIMEOUT_S)
        answers.append(response.status_code)
        assert response.status_code < 500, response.text
        assert not leak_in(response.text)
        case.validate_response(response, excluded_checks=NOT_OURS)

    try:
        answered()
    except Unsatisfiable:  # a page that takes any bytes: nothing is wrong to send
        assert mode is schemathesis.GenerationMode.NEGATIVE


# -- files -------------------------------------------------------------------------------------------------------------


def wav(seconds: float = 2.0, declared: int | None = None, rate: int = 16_000) -> bytes:
    samples = (np.sin(np.arange(int(seconds * rate)) * 0.1) * 9000).astype("<i2").tobytes()
    size = len(samples) if declared is None else declared
    header = b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return header + b"data" + struct.pack("<I", min(size, 2**32 - 1)) + samples


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def motion(frames: int = 125, fill: float | None = None, rate: float = 62.5) -> bytes:
    px = np.random.default_rng(0).normal(300, 50, (frames, 14, 2)).astype(np.float32)
    if fill is not None:
        px[:] = fill
    return npz(motion_px=px, conf=np.ones((frames, 14), np.float32), rate_hz=np.float64(rate))


def bomb() -> bytes:
    """A small file that unpacks to more than the service takes."""
    content, most = io.BytesIO(), reading.MAX_UNPACKED_BYTES
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("motion_px.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (most // 112 + 1, 14, 2)}
            )
            for _ in range(most // 2**20 + 1):
                member.write(bytes(2**20))
    return content.getvalue()


def lying_bomb() -> bytes:
    """The same, but its directory says that it is small."""
    content = bomb()
    place = content.rindex(b"PK\x01\x02")
    return content[: place + 24] + struct.pack("<I", 1000) + content[place + 28 :]


def pickled() -> bytes:
    return npz(motion_px=np.array([{"a": 1}], dtype=object), conf=np.ones(1), rate_hz=np.float64(1))


def frames(n: int = 50, value: Any = 5.0) -> bytes:
    frame = {"people": [{"pose_keypoints_2d": [value] * 75}]}
    return json.dumps({"rate_hz": 25, "frames": [frame] * n}).encode()


SESSION = (
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    b"a=rtpmap:0 PCMU/8000\n"
)
"""To FFmpeg a file like any other; it would listen at the address for the sound."""


def rebuilt(change: Callable[[bytearray], None]) -> bytes:
    """A motion file whose zip is changed."""
    content = bytearray(motion())
    change(content)
    return bytes(content)


def mark_all(offset_local: int, offset_central: int, value: int) -> Callable[[bytearray], None]:
    """Put a 16-bit number into every header of a zip."""

    def change(content: bytearray) -> None:
        for mark, offset in ((b"PK\x03\x04", offset_local), (b"PK\x01\x02", offset_central)):
            place = content.find(mark)
            while place >= 0:
                struct.pack_into("<H", content, place + offset, value)
                place = content.find(mark, place + 4)

    return change


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def cuts(name: str, whole: Callable[[], bytes], shares: Sequence[float]) -> dict[str, Callable[[], bytes]]:
    """The begin of a good file, some shares of it."""
    return {
        f"{name}, {share:.0%} of it": lambda share=share: (all := whole())[: int(len(all) * share)]
        for share in shares
    }  # type: ignore[misc]


SHARES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)

MUSIC: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "noise": lambda: np.random.default_rng(0).bytes(50_000),
    "text": lambda: b"not music at all",
    "truncated wav": lambda: wav()[:30_000],
    "wav that declares ten hours": lambda: wav(declared=10 * 3600 * 32_000),
    "long silence, packed": lambda: encode_flac(np.zeros(16_000 * 200, np.float32)),
    "wav of no samples": lambda: wav(seconds=0.0),
    "wav at no rate": lambda: wav(rate=1),
    "motion": motion,
    "a playlist that names a file": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a playlist of segments": lambda: (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n#EXT-X-ENDLIST\n"
    ),
    "a session description": lambda: SESSION,
    "a list for joining": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    **cuts("wav", wav, SHARES[:-1]),
}
MOTION: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "noise": lambda: np.random.default_rng(0).bytes(50_000),
    "music": wav,
    "half a zip": lambda: motion()[:200],
    "a bomb": bomb,
    "a bomb that lies": lying_bomb,
    "pickled objects": pickled,
    "only NaN": lambda: motion(fill=float("nan")),
    "too many frames": lambda: motion(frames=63 * 100),
    "a rate of nothing": lambda: motion(rate=0.0),
    "a rate that is none": lambda: motion(rate=float("nan")),
    "another zip": lambda: npz(x=np.zeros(3)),
    "an array of text": lambda: npz(motion_px=np.array([["a"]]), conf=np.ones((1, 1)), rate_hz=np.float64(1)),
    "json, deep": lambda: b"[" * 200_000,
    "json, huge": lambda: b'{"frames": [' + b'{"people": []},' * 2_300_000 + b"{}]}",
    "json, half": lambda: frames()[:-7],
    "json of text for numbers": lambda: frames(value="x"),
    "json of numbers beyond any": lambda: frames().replace(b"5.0", b"1e999"),
    "json of NaN": lambda: frames().replace(b"5.0", b"NaN"),
    "json of nothing": lambda: b"{}",
    "json of nulls": lambda: frames(value=None),
    "a zip of a method that is none": lambda: rebuilt(mark_all(8, 10, 99)),
    "a zip of another deflate": lambda: rebuilt(mark_all(8, 10, 9)),
    "a zip that is encrypted": lambda: rebuilt(mark_all(6, 8, 1)),
    "a zip of patches": lambda: rebuilt(mark_all(6, 8, 1 << 5)),
    "an npy whose header ends early": lambda: npy(b"{'descr': (\n"),
    "an npy whose header is deep": lambda: npy(b"(" * 5000 + b"\n"),
    "an npy whose header is indented": lambda: npy(b"  x\n y\n"),
    "an npy larger than any number": lambda: npy(
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 14, 2), }\n" % 2**70
    ),
    "an npy of no type": lambda: npy(b"{'descr': (), 'fortran_order': False, 'shape': (9, 14, 2), }\n"),
    "an npy that declares more than there is": lambda: (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000, 14, 2), }".ljust(117)
        + b"\n"
    ),
    **cuts("npz", motion, SHARES),
    **cuts("json", frames, SHARES),
}
FILES: dict[str, Case] = {
    f"{page}: {name}": Case("POST", f"{page}?steps=1", content)
    for page, files in ((A2M, MUSIC), (M2A, MOTION))
    for name, content in files.items()
}


# -- requests ----------------------------------------------------------------------------------------------------------


TRAVERSALS = [
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\win.ini",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "%2e%2e%2fetc%2fpasswd",
    "\0" * 32,
    "0" * 31,
    "0" * 33,
    "A" * 32,
    "0" * 31 + "\n",
]
"""Where the id of a file belongs."""
WRONG_SETTINGS: dict[str, list[str]] = {
    "seconds": ["", "abc", "nan", "inf", "-inf", "-1", "0", "0.5", "1e309", "601", "599", "1,5", "[]"],
    "seed": ["", "abc", "-1", str(2**63), "1.5", "9" * 5000],
    "n": ["0", "-1", "9", "65", "abc", "1.5"],
    "steps": ["0", "-1", "1001", "abc", "1.5", "9" * 5000],
    "sampler": ["", "euler", "DDIM", "../ddim"],
    "guidance": ["abc", "nan", "inf", "101", "-101"],
    "format": ["", "exe", "../../etc/passwd", "mp4/../wav", "WAV"],
    "surprise": ["1"],
}
OF_ONE_TASK: dict[str, dict[str, list[str]]] = {
    A2M: {"file": [*TRAVERSALS, "0" * 32], "gamma": ["0.5"], "fps": ["25"]},
    M2A: {"file": [*TRAVERSALS, "0" * 32], "gamma": ["0.5"], "fps": ["0", "-1", "nan", "inf", "1e9", "abc"]},
    JOINT: {"file": ["0" * 32], "gamma": ["-1", "2", "nan", "abc"], "fps": ["25"]},
}


def _queries() -> Iterator[Case]:
    for page, own in OF_ONE_TASK.items():
        for name, values in {**WRONG_SETTINGS, **own}.items():
            for value in values:
                base = {"seconds": "1"} if page == JOINT else {}
                query = "&".join(f"{key}={quote(one)}" for key, one in {**base, name: value}.items())
                yield Case("POST", f"{page}?{query}")
    yield Case("POST", JOINT)
    yield Case("POST", f"{JOINT}?seconds=1", b"a body where there is none")
    yield Case("POST", f"{A2M}?file={'0' * 32}", b"a body beside a file")
    yield Case("POST", f"{A2M}?seed=1&seed=x")
    yield Case("POST", f"{JOINT}?seconds=1&{'a' * 20_000}=1")


GOOD_LINE: dict[str, Any] = {"task": "joint", "seconds": 1, "steps": 1}
WRONG_VALUES: dict[str, list[Any]] = {
    "task": ["", "A2M", "a2m", "m2a", None, 1, [], {}, "../../etc/passwd"],
    "seconds": ["two", None, -1, 0, 599, 1e9, float("inf"), float("nan"), [], {}],
    "seed": [-1, 2**63, 10**400, 1.5, "x", None, []],
    "n": [0, -1, 9, 65, 1.5, "x", None],
    "steps": [0, -1, 1001, 10**400, 1.5, "many", None],
    "sampler": ["", "euler", None, 3, []],
    "guidance": ["x", 1e9, float("nan"), float("-inf"), None],
    "gamma": [-1, 2, "x", None, float("nan")],
    "format": ["", "exe", "../../etc/passwd", None, 7],
    "id": [1, {}, [], "x" * 201, "\ud800"],
    "file": ["0" * 32, "../../etc/passwd"],
    "surprise": [1],
}
NO_BATCHES: dict[str, bytes] = {
    "nothing": b"",
    "empty lines": b"\n \n\t\n",
    "half an object": b"{",
    "an array": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"joint"',
    "NaN": b"NaN",
    "not UTF-8": b'{"task": "\xff"}',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a number of many digits": b'{"task": "joint", "seconds": %s}' % (b"9" * 100_000),
    "zeros": bytes(1000),
    "noise": np.random.default_rng(1).bytes(10_000),
    "music": wav(0.1),
    "a second line that is none": json.dumps(GOOD_LINE).encode() + b"\n{",
    "too many items": (json.dumps(GOOD_LINE).encode() + b"\n") * 10_001,
}


def _batches() -> Iterator[tuple[str, bytes]]:
    yield from NO_BATCHES.items()
    for name, values in WRONG_VALUES.items():
        for value in values:
            yield f"{name} {value!r:.40}", json.dumps({**GOOD_LINE, name: value}).encode()
    for task in ("a2m", "m2a"):
        for file in [*TRAVERSALS, "0" * 32, None, 1, [], {}]:
            yield f"{task} of file {file!r}", json.dumps({"task": task, "file": file}).encode()
    for fps in (0, -1, "x", 1e9, float("nan")):
        yield f"fps {fps!r}", json.dumps({"task": "m2a", "file": "0" * 32, "fps": fps}).encode()


JOB = f"/v1/jobs/{'0' * 32}"
PAGES = [
    ("GET", path)
    for path in (
        "/v1/jobs/../../etc/passwd", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/jobs/..%2f..%2fetc%2fpasswd",
        "/v1/jobs/..", "/v1/jobs/%00", "/v1/jobs/%ff%fe", "/v1/jobs/'%20OR%201=1--", f"/v1/jobs/{'a' * 5000}",
        "/v1/jobs/%F0%9F%92%83", JOB, f"{JOB}/items", f"{JOB}/items/0", f"{JOB}/items/-1", f"{JOB}/items/{'9' * 20}",
        f"{JOB}/items/{'9' * 5000}", f"{JOB}/items/abc", f"{JOB}/items/1e3", f"{JOB}/items/..%2f..%2f0",
        f"{JOB}/items/0%00.mp4", f"{JOB}/items?offset=-1", f"{JOB}/items?offset={2**53}", f"{JOB}/items?limit=0",
        f"{JOB}/items?limit=1001", f"{JOB}/items?limit=abc", f"{JOB}/items?offset={'9' * 5000}",
        f"/v1/files/{'0' * 32}", "/v1/files/..%2fstore.db", "/v1/files", "/v1/batch", "/v1/models/..%2f..%2fetc",
        "/v1/generate", JOINT, "/v2/models", "/docs/..%2f..%2fetc%2fpasswd", "/static/../../etc/passwd", "/store.db",
        "/.env", "/.git/config",
    )
] + [
    ("DELETE", JOB), ("DELETE", "/v1/jobs/..%2fx"), ("DELETE", f"/v1/files/{'0' * 32}"), ("DELETE", "/v1/models"),
    ("PUT", "/v1/batch"), ("PATCH", JOINT), ("POST", "/healthz"), ("POST", "/metrics"), ("POST", f"{JOB}/items/0"),
    ("TRACE", "/v1/models"), ("OPTIONS", "/v1/batch"), ("POST", "/openapi.json"),
]  # fmt: skip
HEADERS: dict[str, Mapping[str, bytes]] = {
    "a request id that is no text": {"X-Request-ID": b"\xff\xfe"},
    "a session that is no text": {"X-Session-ID": b"\xff"},
    "a model that is no text": {"serve_multiplexed_model_id": b"\xff"},
    "a model in a place": {"serve-multiplexed-model-id": b"../../etc/passwd"},
    "a time that is no text": {"X-Request-Timeout-Seconds": b"\xff"},
    "no time at all": {"X-Request-Timeout-Seconds": b"0.000001"},
    "a hold on the request": {"X-Request-Disconnect-Disabled": b"?1"},
    "a hold that is no text": {"X-Request-Disconnect-Disabled": b"\xff"},
    "a token that is no text": {"Authorization": b"Bearer \xff"},
    "a type that is no text": {"Content-Type": b"\xff/\xff; charset=\xff"},
    "a type that is no charset": {"Content-Type": b"application/json; charset=../../x"},
    "a form": {"Content-Type": b"multipart/form-data"},
    "a cookie": {"Cookie": b"=" * 8000},
    "a range": {"Range": b"bytes=-1-"},
    "another host": {"Host": b"../../etc/passwd"},
    "a length of many zeros": {"Content-Length": b"0" * 5000},
}

WIRE: dict[str, Case] = {
    **{f"{case.method} {case.path[:100]} {i}": case for i, case in enumerate(_queries())},
    **{f"a batch: {name}": Case("POST", "/v1/batch", body) for name, body in _batches()},
    **{f"{method} {path[:100]}": Case(method, path) for method, path in PAGES},
    **{f"headers: {name}": Case("POST", "/v1/batch", b"", headers) for name, headers in HEADERS.items()},
    "an empty upload": Case("POST", "/v1/files"),
    "nothing for music": Case("POST", A2M),
}

BEGIN = b"POST /v1/files HTTP/1.1\r\nHost: x\r\n"
NO_HTTP: dict[str, bytes] = {
    "noise": b"\xff" * 1000 + b"\r\n\r\n",
    "the begin of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a method that is none": b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in the path": b"GET /v1/jobs/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in the name of a header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX\xff: 1\r\n\r\n",
    "a length below nothing": BEGIN + b"Content-Length: -1\r\n\r\n",
    "a length beyond any": BEGIN + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a length that is none": BEGIN + b"Content-Length: ../x\r\n\r\n",
    "two lengths": BEGIN + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": BEGIN + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
"""What is no request at all: the server of both applications answers 400 by itself."""
