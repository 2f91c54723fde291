"""Services to ask, and what to send them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from momu_dist.data.clips import PreparedClip, first_clips
from momu_dist.data.manifest import Manifest
from momu_dist.inference.media import write_wav
from momu_dist.inference.motion_io import save_motion_npz
from served import Served


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "app.yaml"
    path.write_text(
        "applications:\n- name: momu\n  import_path: momu_dist.serving.app:build\n  args:\n    checkpoint: [none]\n"
    )
    return path


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, small_config: Path) -> Iterator[Callable[..., Served]]:
    """`serve("queue=16", checkpoint=...)` starts a service; all end with the session."""
    started: list[Served] = []

    def start(*settings: str, checkpoint: str | Path, **environment: str) -> Served:
        given = ["--config", str(small_config), "--checkpoint", str(checkpoint), "threads=1", *settings]
        started.append(Served(tmp_path_factory.mktemp("service"), given, environment))
        return started[-1].start()

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def clips(prepared: Manifest) -> list[PreparedClip]:
    return first_clips(prepared.root, "train", 4)


@pytest.fixture(scope="session")
def music(clips: list[PreparedClip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "song.wav"
    write_wav(path, clips[0].audio, 16_000)
    return path


@pytest.fixture(scope="session")
def motion(clips: list[PreparedClip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "dance.npz"
    save_motion_npz(path, clips[0].motion_px, 62.5)
    return path
