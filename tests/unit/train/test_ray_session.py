"""The folder of an own Ray; Ray itself is stood in for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from momu_dist.train import ray_session as module
from momu_dist.train.scratch import node_folder, take

KILLED = """
import sys, time
from pathlib import Path
from momu_dist.train import ray_session as module
module._SCRATCH = Path(sys.argv[1])
module._own_token = module.ray.shutdown = lambda: None
module.ray.init = lambda **named: None
with module.ray_session():
    print("runs", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temp_dirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Where each Ray that was started has its files."""
    given: list[Path] = []
    monkeypatch.setattr(module, "_SCRATCH", tmp_path)
    monkeypatch.setattr(module, "_own_token", lambda: None)
    monkeypatch.setattr(module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(module.ray, "init", lambda **named: given.append(Path(named["_temp_dir"])))
    monkeypatch.setattr(module.ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return given


def folders(scratch: Path) -> list[Path]:
    return sorted(path for path in scratch.iterdir() if path.is_dir())


def test_the_next_session_removes_what_a_killed_driver_left_and_nothing_else(
    temp_dirs: list[Path], tmp_path: Path
) -> None:
    environment: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "runs\n"
        (left,) = folders(tmp_path)
        with module.ray_session():
            assert folders(tmp_path) == sorted([left, *temp_dirs]), "one that lives keeps its folder"
        driver.send_signal(signal.SIGKILL)
    other_node = take(Path(node_folder(str(tmp_path), "7")), f"not-{socket.gethostname()}")
    other_node.close()
    (strange := tmp_path / "momu-strange").mkdir()
    with module.ray_session():
        assert left not in folders(tmp_path) and temp_dirs[-1].stat().st_mode & 0o777 == 0o700
    assert folders(tmp_path) == sorted([strange, Path(node_folder(str(tmp_path), "7"))])
