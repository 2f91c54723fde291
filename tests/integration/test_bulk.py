"""`momu generate --manifest`: many items over Ray Data, gone on with after a kill, each failing alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from momu_dist.inference.generator import Generator
from momu_dist.inference.request import Request

pytestmark = pytest.mark.serving


def command(manifest: Path, out: Path, runs: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "momu_dist.cli", "generate", "--manifest", str(manifest), "--out", str(out),
        "--checkpoint", str(runs), *more,
    ]  # fmt: skip


def _wait_until_still(folder: Path) -> None:
    """Ray's processes outlive their driver by some seconds, and what they are at they finish."""
    end, before = time.monotonic() + 60, -1
    while (now := len(list(folder.iterdir()))) != before:
        assert time.monotonic() < end, "files go on appearing after the kill"
        before = now
        time.sleep(5)


def test_a_killed_run_goes_on_and_a_bad_item_fails_alone(tiny_runs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"not music")
    items: list[dict[str, Any]] = [
        {
            "task": "joint",
            "seconds": 1.5 + 0.1 * (i % 3),
            "steps": 40,
            "seed": i,
            "format": "npz",
            "id": f"s{i}",
        }
        for i in range(48)
    ]
    items.insert(5, {"task": "a2m", "input": "bad.wav", "id": "bad"})
    manifest = tmp_path / "items.jsonl"
    manifest.write_text("".join(json.dumps(item) + "\n" for item in items))
    out = tmp_path / "made"
    running = subprocess.Popen(
        command(manifest, out, tiny_runs),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 180
    while len(list(out.glob("s*.npz"))) < 10:
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    _wait_until_still(out)
    there = {path: path.stat().st_mtime_ns for path in out.glob("s*.npz")}
    assert len(there) < 48, "it was killed too late to show anything"
    second = subprocess.run(command(manifest, out, tiny_runs), capture_output=True, text=True, timeout=300)
    assert second.returncode == 2
    assert f"{48 - len(there)} made, {len(there)} were there, 1 failed" in second.stdout, (
        second.stdout + second.stderr
    )
    assert "item 6 (bad):" in second.stderr
    assert sorted(path.stem for path in out.glob("*.npz")) == sorted(f"s{i}" for i in range(48))
    assert all(path.stat().st_mtime_ns == before for path, before in there.items()), "nothing is made twice"
    alone = Generator.load(tiny_runs, device="cpu").generate(Request("joint", 7, 1.6, 40))[0]
    with np.load(out / "s7.npz") as arrays:
        np.testing.assert_allclose(arrays["motion_px"], alone.motion_px, atol=1e-2)


def test_mistakes_are_said_before_anything_is_made(tiny_runs: Path, tmp_path: Path) -> None:
    started = []
    for number, (line, said) in enumerate(
        (
            ('{"task": "joint"}', "seconds"),
            ('{"task": "a2m", "input": "gone.wav"}', "does not exist"),
            ("nonsense", "line 1 is no JSON"),
            ('{"task": "joint", "seconds": 2, "gamma": 7}', "gamma"),
        )
    ):
        manifest = tmp_path / f"items{number}.jsonl"
        manifest.write_text(line + "\n")
        process = subprocess.Popen(
            command(manifest, tmp_path / "out", tiny_runs), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        started.append((process, said))
    try:
        for process, said in started:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 2 and said in errors and "Traceback" not in errors, errors
    finally:
        for process, _ in started:  # of a test that failed
            process.kill()
            process.wait()
    assert not (tmp_path / "out" / ".manifest.json").exists()
