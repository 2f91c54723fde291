"""`sbatch jobs/serve.sh`: the service inside a job."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from faults import Field
from lab import Lab
from momu_dist.data.clips import first_clips
from momu_dist.inference.media import write_wav
from momu_dist.train.run import train

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[3]
READY_S = 180


def test_a_service_in_a_job_answers_and_leaves_nothing(lab: Lab, field: Field, tmp_path: Path) -> None:
    trained = train(field.config("dit_a2m", "local", "served", "train.max_steps=2", "train.previews=false"))
    write_wav(tmp_path / "song.wav", first_clips(field.data.root, "train", 1)[0].audio, 16_000)
    job = lab.sbatch(
        f"--output={tmp_path}/serve.out", str(ROOT / "jobs" / "serve.sh"), "--checkpoint", str(trained), "threads=1",
        f"state={tmp_path}/state", cwd=ROOT, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        log, end = tmp_path / "serve.out", time.monotonic() + READY_S
        while not (log.is_file() and "http://127.0.0.1:8000" in log.read_text()):
            assert time.monotonic() < end and lab.state(job) in ("PENDING", "RUNNING"), log.read_text()
            time.sleep(0.5)
        (node,) = [node for node in lab.nodes if lab.processes(node)]
        asked = ("client", "generate", "--task", "a2m", "--input", str(tmp_path / "song.wav"), "--steps", "2")
        done = lab.on_node(
            node, sys.executable, "-m", "momu_dist.cli", *asked, "--out", str(tmp_path / "dance.npz"), check=False, cwd=ROOT
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
        assert (tmp_path / "dance.npz").stat().st_size > 1000
    finally:
        lab.cancel(job)
    lab.wait(job, "CANCELLED")
    end = time.monotonic() + 60
    while any(lab.processes(node) for node in lab.nodes):
        assert time.monotonic() < end, [lab.processes(node) for node in lab.nodes]
        time.sleep(0.5)
    assert all(lab.files(node, f"momu-*-{job}") == [] for node in lab.nodes)
