"""Both ways are counted from the start of the job, and neither waits for ever."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import time
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest

from momu_dist.launch.status import Status
from momu_dist.train.process import process_age_s


@pytest.fixture
def bringup() -> ModuleType:
    return importlib.import_module("bringup")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the first of PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "bin"


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_status_begins_with_its_process(tmp_path: Path) -> None:
    before = time.time() - process_age_s()
    status = Status(tmp_path / "status.json")
    status.open(7, "momu", [])
    status.phase("checks")
    started = datetime.fromisoformat(status.facts["started"]).timestamp()
    assert abs(started - before) < 0.1
    assert abs(started + status.facts["phases_s"]["start"] - time.time()) < 0.1


def test_the_start_of_the_launcher_belongs_to_its_bring_up(
    bringup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    phases = {"start": 3.0, "checks": 1.0, "nodes": 2.0, "ray": 4.0, "workers": 5.0, "first step": 6.0}
    facts = {
        "started": "2026-11-26T10:00:00.250+00:00",
        "phases_s": {**phases, "training": 7.0, "ending": 1.5},
        "ended": {"code": 0},
    }
    status = tmp_path / "runs" / "slurm" / "7" / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text(json.dumps(facts))
    monkeypatch.setattr(bringup, "ROOT", tmp_path)
    monkeypatch.setattr(bringup, "sbatch", lambda *_: 7)
    gone = datetime.fromisoformat(facts["started"]).timestamp() + 31.5
    monkeypatch.setattr(bringup, "when_gone", lambda job: gone)
    took = bringup.by_momu(tmp_path / "log", 2, [])
    assert took["Ray"] == 10.0 and took["of it start"] == 3.0 and took["first step"] == 21.0
    assert took["gone"] == pytest.approx(3.5)  # 28 s after its start the driver had ended


def test_a_ray_by_hand_that_does_not_start_ends_the_job(
    bringup: ModuleType, programs: Path, tmp_path: Path
) -> None:
    program(programs, "scontrol", "echo n1; echo n2")
    program(programs, "getent", "echo 10.0.0.1 n1")
    program(programs, "srun", "exec sleep 30")
    text = bringup.BY_HAND.replace("$OUT", str(tmp_path)).replace("RAY_S", "1")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "no Ray on n1 within 1 s" in done.stdout
    assert not (tmp_path / "driver").exists()


def test_a_job_that_stays_is_cancelled(
    bringup: ModuleType, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "squeue", "echo 7")
    program(programs, "scancel", f'echo "$@" > {tmp_path}/cancelled')
    monkeypatch.setattr(bringup, "TIMEOUT_MIN", 0.005)
    with pytest.raises(SystemExit, match="has not ended"):
        bringup.when_gone(7)
    assert (tmp_path / "cancelled").read_text() == "7\n"
