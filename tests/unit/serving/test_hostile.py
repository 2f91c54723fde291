"""What is sent to break the service: a client's error with a sentence, whatever it is, and never a word of where things lie."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.motion.cleaning import resample_to_grid
from momu_dist.data.audio_io import encode_flac
from momu_dist.errors import DataError
from momu_dist.serving.reading import read_bytes

EXAMPLES = 30
"""Requests made up for each page of the interface, some right and some wrong."""

# A body of bytes has no shape that a page could tell; what is in it is for the tests below.
NOT_OURS = [positive_data_acceptance, negative_data_rejection, unsupported_method]


def test_requests_made_up_from_the_openapi_page(opened: Callable[..., Any]) -> None:
    answers: list[int] = []
    with opened(deadline_s=5) as client, listening(client.app) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for operation in schema.get_all_operations():
            for mode in schemathesis.GenerationMode:
                _ask(operation.ok(), mode, answers)
    assert len(answers) >= 200 and {200, 404, 422} <= set(answers)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address of a server of `app`, whose own tasks run elsewhere."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _ask(operation: Any, mode: Any, answers: list[int]) -> None:
    try:
        cases = operation.as_strategy(generation_mode=mode)
    except Exception as error:  # a page without anything to get wrong
        assert "negative" in str(error).lower(), error
        return

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def answered(case: Any) -> None:
        response = case.call()
        answers.append(response.status_code)
        assert response.status_code < 500, response.text
        case.validate_response(response, excluded_checks=NOT_OURS)

    try:
        answered()
    except Unsatisfiable:  # a page that takes any bytes: nothing is wrong to send
        assert mode is schemathesis.GenerationMode.NEGATIVE


# -- files -------------------------------------------------------------------------------------------------------------


LONGEST_S = 60.0
MAX_UNPACKED_BYTES = 4 * 2**20
"""Smaller than the service's, so that what goes beyond is soon made."""


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("momu_dist.serving.reading.MAX_UNPACKED_BYTES", MAX_UNPACKED_BYTES)


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
    """A small file that unpacks to more than is taken."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("motion_px.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member,
                {"descr": "<f4", "fortran_order": False, "shape": (MAX_UNPACKED_BYTES // 112 + 1, 14, 2)},
            )
            for _ in range(MAX_UNPACKED_BYTES // 2**20 + 1):
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


HOSTILE_MUSIC: dict[str, Callable[[], bytes]] = {
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
}
HOSTILE_MOTION: dict[str, Callable[[], bytes]] = {
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
}


@pytest.mark.parametrize("name", HOSTILE_MUSIC)
def test_a_file_that_is_no_music(name: str) -> None:
    _refused("a2m", HOSTILE_MUSIC[name]())


@pytest.mark.parametrize("name", HOSTILE_MOTION)
def test_a_file_that_is_no_motion(name: str) -> None:
    _refused("m2a", HOSTILE_MOTION[name]())


def _refused(task: Any, content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        read_bytes(task, content, None, LONGEST_S)
    said = str(caught.value)
    assert "\n" not in said and "/tmp" not in said and "momu-upload" not in said and len(said) < 600


@pytest.mark.parametrize("name", HOSTILE_MUSIC)
def test_nothing_is_opened_that_a_file_names(name: str) -> None:
    """No socket for as long as it is read: neither a connection nor a listener."""
    over, opened = threading.Event(), set[str]()
    before = sockets()

    def watch() -> None:
        while not over.is_set():
            opened.update(sockets() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _refused("a2m", HOSTILE_MUSIC[name]())
    finally:
        over.set()
        watcher.join()
    assert not opened


def sockets() -> set[str]:
    """The sockets of this process."""
    found = set()
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(handle))
    return {one for one in found if one.startswith("socket:")}


@pytest.mark.parametrize("fps", [62.5, 30.0, 4.0])
def test_what_is_cut_gives_what_the_whole_gives(fps: float) -> None:
    """The sample of an upload does not depend on how much of it was read."""
    whole = read_bytes("m2a", motion(frames=500), fps, 1e4)["motion_px"]
    cut = read_bytes("m2a", motion(frames=500), fps, 1e4, 5.0)["motion_px"]
    assert len(cut) < len(whole)
    n = round(5.0 * MEL_RATE_HZ)
    np.testing.assert_array_equal(*(resample_to_grid(one, fps, n) for one in (cut, whole)))
    music = wav(seconds=20.0, rate=44_100)
    cut, whole = (read_bytes("a2m", music, None, 100.0, seconds)["audio"] for seconds in (5.0, None))
    assert len(cut) < len(whole)
    np.testing.assert_allclose(cut[: 5 * 16_000], whole[: 5 * 16_000], atol=1e-6)


def test_what_breaks_a_parser_is_told_from_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("/tmp/inside")

    monkeypatch.setattr("momu_dist.serving.reading.read_audio", broken)
    _refused("a2m", wav())
    assert "/tmp/inside" in caplog.text  # for the operator


def test_files_that_are_right_are_read() -> None:
    assert len(read_bytes("a2m", wav(), None, 60.0)["audio"]) == 32_000
    assert (
        len(read_bytes("a2m", wav(declared=2**32 - 1), None, 60.0)["audio"]) == 32_000
    )  # of a length not known before
    for content in (motion(), frames()):
        found = read_bytes("m2a", content, None, 60.0)
        assert found["motion_px"].shape[1:] == (14, 2) and found["fps"] in (62.5, 25.0)
    assert len(read_bytes("a2m", encode_flac(np.zeros(16_000 * 200)), None, 1.0, 2.0)["audio"]) < 3.5 * 16_000
    assert len(read_bytes("m2a", motion(frames=1000), None, 1.0, 2.0)["motion_px"]) < 3.5 * 62.5
    with pytest.raises(DataError, match="at most 1 s"):
        read_bytes("m2a", motion(), None, 1.0)
    with pytest.raises(DataError, match="longer than 1 s"):
        read_bytes("a2m", wav(), None, 1.0)
