"""What is sent to break the service: a client's error with a sentence, whatever it is, and never a word of where things lie."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from hostile import MOTION, MUSIC, NO_HTTP, WIRE, frames, leak_in, made_up, motion, raw, unrefused, wav

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.motion.cleaning import resample_to_grid
from momu_dist.data.audio_io import encode_flac
from momu_dist.errors import DataError
from momu_dist.serving.reading import read_bytes


def test_requests_made_up_from_the_openapi_page(opened: Callable[..., Any]) -> None:
    with opened(deadline_s=5) as client, listening(client.app) as url:
        answers = made_up(url, examples=30)
    assert len(answers) >= 200 and {200, 404, 422} <= set(answers)


def test_requests_that_are_none(opened: Callable[..., Any]) -> None:
    with opened() as client, listening(client.app) as url:
        assert unrefused(url, WIRE) == {}
        for sent in NO_HTTP.values():
            assert (came := raw(url, sent)).startswith("HTTP/1.1 400") and not leak_in(came)


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


# -- files -------------------------------------------------------------------------------------------------------------


LONGEST_S = 60.0
MAX_UNPACKED_BYTES = 4 * 2**20
"""Smaller than the service's, so that what goes beyond is soon made."""


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("momu_dist.serving.reading.MAX_UNPACKED_BYTES", MAX_UNPACKED_BYTES)


@pytest.mark.parametrize("name", MUSIC)
def test_a_file_that_is_no_music(name: str) -> None:
    _refused("a2m", MUSIC[name]())


@pytest.mark.parametrize("name", MOTION)
def test_a_file_that_is_no_motion(name: str) -> None:
    _refused("m2a", MOTION[name]())


def _refused(task: Any, content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        read_bytes(task, content, None, LONGEST_S)
    said = str(caught.value)
    assert "\n" not in said and "/tmp" not in said and "momu-upload" not in said and len(said) < 600


@pytest.mark.parametrize("name", MUSIC)
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
        _refused("a2m", MUSIC[name]())
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
    for content in (motion(), frames(), b"\xef\xbb\xbf" + frames()):
        found = read_bytes("m2a", content, None, 60.0)
        assert found["motion_px"].shape[1:] == (14, 2) and found["fps"] in (62.5, 25.0)
    assert len(read_bytes("a2m", encode_flac(np.zeros(16_000 * 200)), None, 1.0, 2.0)["audio"]) < 3.5 * 16_000
    assert len(read_bytes("m2a", motion(frames=1000), None, 1.0, 2.0)["motion_px"]) < 3.5 * 62.5
    with pytest.raises(DataError, match="at most 1 s"):
        read_bytes("m2a", motion(), None, 1.0)
    with pytest.raises(DataError, match="longer than 1 s"):
        read_bytes("a2m", wav(), None, 1.0)
