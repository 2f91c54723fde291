"""The launcher as a batch script runs it, with a SLURM and a Ray that are scripts: how a job ends, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCONTROL = """#!/usr/bin/env bash
echo "$@" >> {asked}
case "$*" in
  "show hostnames n1") echo n1;;
  "show job"*) echo "JobId=7 JobState=${{PLAYED_STATE:-RUNNING}} EndTime=Unknown";;
  "show config") echo "KillWait = 6 sec";;
  requeue*)
    [ -z "$PLAYED_REFUSAL" ] || {{ echo "$PLAYED_REFUSAL" >&2; exit 1; }}
    (sleep 1; kill -TERM $PPID) > /dev/null 2>&1 & ;;
esac
"""
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
RAY = """#!/usr/bin/env bash
echo 'Ray runtime started.'
[ -z "$PLAYED_DEATH" ] || { sleep 1; exit 9; }
exec sleep 87654
"""


class Played:
    """A launcher that was started in an allocation of one node, this machine."""

    def __init__(self, folder: Path, *work: str, **env: str) -> None:
        self.folder, self.asked = folder, folder / "asked"
        bin = folder / "bin"
        bin.mkdir()
        (bin / "python").symlink_to(sys.executable)
        for name, text in (("scontrol", SCONTROL.format(asked=self.asked)), ("srun", SRUN), ("ray", RAY)):
            (bin / name).write_text(text)
            (bin / name).chmod(0o755)
        site = folder / "site.yaml"
        site.write_text("env: {MOMU_PLAYED: here}\n")
        slurm = {
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_CPUS_PER_NODE": "2",
            "SLURM_SUBMIT_DIR": str(folder), "SLURM_MEM_PER_NODE": "2000",
        }  # fmt: skip
        self.output = folder / "log"
        with self.output.open("w") as log:
            self.process = subprocess.Popen(
                [bin / "python", "-u", "-m", "momu_dist.launch", *work, "--cluster", str(site)],
                stdout=log, stderr=log, cwd=folder,
                env={
                    **os.environ, "PATH": f"{bin}:{os.environ['PATH']}", **slurm, **env,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                },
            )  # fmt: skip

    def status(self) -> dict[str, Any]:
        path = self.folder / "runs" / "slurm" / "7" / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def wait_for(self, phase: str) -> None:
        until = time.monotonic() + 60
        while self.status().get("phase") != phase:
            assert time.monotonic() < until and self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)

    def ends(self, code: int) -> list[str]:
        """Wait for the end with that exit code; return the last lines. Nothing may be left."""
        assert self.process.wait(60) == code, self.output.read_text()
        left = subprocess.run(["pgrep", "-f", "^sleep 87654$"], capture_output=True, text=True).stdout.split()
        assert not left and not Path(f"/tmp/momu-{os.getuid()}-7").exists()
        assert not (self.folder / "runs" / "slurm" / "7" / "token").exists()
        return self.output.read_text().splitlines()[-5:]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., Played]:
    return lambda *work, **env: Played(tmp_path, *work, **env)


def test_a_job_that_holds_ends_with_scancel(play: Callable[..., Played]) -> None:
    job = play("hold")
    job.wait_for("holding")
    address = job.folder / "runs" / "slurm" / "7" / "ray.json"
    assert address.stat().st_mode & 0o777 == 0o600
    job.process.send_signal(signal.SIGTERM)
    last = job.ends(0)
    assert "ends with exit code 0, not requeued: done" in last[-1]
    status = job.status()
    assert status["ended"]["code"] == 0 and {"start", "checks", "nodes", "ray"} <= status["phases_s"].keys()
    assert not address.exists()


def test_a_ray_that_dies_ends_the_job_which_is_requeued(play: Callable[..., Played]) -> None:
    """It had taken part, so it is a fault of the machine, not of the job."""
    job = play("hold", PLAYED_DEATH="1")
    assert job.process.wait(60) == -signal.SIGTERM  # of the requeue that SLURM accepted
    ended = job.status()["ended"]
    assert ended["requeued"] and "n1" in ended["first_failure"] and job.status()["failures"] == 1
    assert "requeue 7" in job.asked.read_text()
    assert "first to fail: n1 was lost" in job.output.read_text()
    kept = job.folder / "runs" / "slurm" / "7"
    assert "Ray runtime started" in (kept / "n1.r0.log").read_text()


def test_an_element_of_an_array_asks_for_itself_alone_and_says_if_it_is_refused(
    play: Callable[..., Played],
) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    job = play("hold", PLAYED_DEATH="1", PLAYED_REFUSAL="disabled for this job", **array)
    last = job.ends(1)
    assert "disabled for this job" in last[-1] and not job.status()["ended"]["requeued"]
    asked = job.asked.read_text().splitlines()
    assert "requeue 7_2" in asked and not any(line in ("requeue 7", "show job -o 7") for line in asked)


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (("train", "--config", "nowhere.yaml"), "no config at nowhere.yaml"),
        (("train", "--config", "a", "--no-such-option"), "cannot be read"),
        (("hold", "for", "ever"), "hold takes no arguments"),
    ],
)
def test_a_mistake_is_said_before_any_node_is_used(
    play: Callable[..., Played], work: tuple[str, ...], why: str
) -> None:
    job = play(*work)
    last = job.ends(2)
    assert any(why in line for line in last), last
    assert job.status()["ended"]["code"] == 2
    assert not (job.folder / "runs" / "slurm" / "7" / "n1.r0.log").exists()


def test_gpus_that_torch_cannot_use_are_said_before_any_node_is_used(play: Callable[..., Played]) -> None:
    config = Path(__file__).parents[3] / "configs" / "demo" / "music_vae.yaml"
    work = ("train", "--config", str(config), "train.device=auto")
    job = play(*work, CUDA_VISIBLE_DEVICES="98,99")  # on a machine with GPUs there are not so many
    last = job.ends(2)
    assert any("SLURM gave this job 2 GPUs a node" in line for line in last), last
    assert not (job.folder / "runs" / "slurm" / "7" / "n1.r0.log").exists()
