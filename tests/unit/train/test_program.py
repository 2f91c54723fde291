"""`python -m momu_dist.train` as a process: what a scheduler's signals do before there is anything to save."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from momu_dist.data.manifest import Manifest
from momu_dist.train import __main__ as program
from momu_dist.train.process import GIVEN_AT, given_at, process_age_s

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_while_it_still_imports_ends_it_as_stopped(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "momu_dist.train", "--config", str(ROOT / "configs/demo/music_vae.yaml")]
    process = subprocess.Popen([*command, f"out={tmp_path}"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 30
    while not caught(process.pid) >> (number - 1) & 1:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert f"stopped by {number.name}" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("laid", ["while it still imports", "before it started, but after its job"])
def test_a_stop_that_is_laid_since_the_command_was_given_is_obeyed(
    tmp_path: Path, prepared: Manifest, tiny_overrides: Callable[..., list[str]], laid: str
) -> None:
    stop = tmp_path / "music_vae" / "stop"
    stop.parent.mkdir()
    command = [sys.executable, "-m", "momu_dist.train", "--config", str(ROOT / "configs/demo/music_vae.yaml")]
    command += tiny_overrides("music_vae", tmp_path, prepared.root)
    env, of_job = dict(os.environ), laid != "while it still imports"
    if of_job:
        env[GIVEN_AT] = str(time.time() - 60)
        stop.touch()
        os.utime(stop, (time.time() - 30, time.time() - 30))
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env)
    until = time.monotonic() + 30
    while not caught(process.pid) >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.005)
    if not of_job:
        stop.touch()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "stopped as asked after step 0 of 2" in said and "Traceback" not in said


def test_code_that_hides_the_interruption_behind_its_own_error_still_ends_as_stopped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise AttributeError("what argparse says where a signal cuts into it")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    monkeypatch.setattr(program, "main", interrupted)
    try:
        assert program.as_program([]) == 75
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "stopped by SIGTERM" in capfd.readouterr().err


@pytest.mark.parametrize("up", ["", "0.00 0.00"])
def test_a_process_without_an_age_begins_now(monkeypatch: pytest.MonkeyPatch, up: str) -> None:
    """No /proc, or one whose clock began after the process, as a container's may."""
    usual = Path.read_text

    def read(path: Path) -> str:
        if str(path) == "/proc/uptime":
            if not up:
                raise FileNotFoundError(path)
            return up
        return usual(path)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.delenv(GIVEN_AT, raising=False)
    assert process_age_s() == 0.0 and abs(given_at() - time.time()) < 1.0


def caught(pid: int) -> int:
    """The signals that a process answers itself, as a mask."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
