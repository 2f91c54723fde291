"""`momu submit`, `status`, `logs`, `ray-job` and `doctor` on a real cluster, as a user on the login node."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults import Field
from lab import FINAL, Lab

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[3]


@pytest.fixture
def site(tmp_path: Path) -> str:
    path = tmp_path / "site.yaml"
    path.write_text('sbatch: {partition: main, time: "30"}\n')
    return str(path)


def momu(lab: Lab, *arguments: str, code: int = 0) -> str:
    """Run the command line in the checkout; return what it printed."""
    done = lab.run(sys.executable, "-m", "momu_dist.cli", *arguments, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def numbers(said: str) -> list[int]:
    """Return the numbers of the jobs that momu submit printed."""
    return [int(number) for number in re.findall(r"^(\d+)  ", said, re.MULTILINE)]


def wait_for_all(lab: Lab, jobs: list[int], timeout: float = 300) -> None:
    end = time.monotonic() + timeout
    while not all(lab.state(job) in FINAL for job in jobs):
        assert time.monotonic() < end, {job: lab.facts(job) for job in jobs}
        time.sleep(0.2)


def test_a_chain_trains_a_whole_model(lab: Lab, field: Field, site: str) -> None:
    """Small runs in single processes: what is tried is the order, and that each finds what the one before made."""
    out = field.root / "chain"
    given = [
        f"out={out}", f"data.root={field.data.root}", "train.strategy=local", "train.workers=1", "train.max_steps=2",
        "train.global_batch=4", "data.length_s=[2.0, 2.5]", "tracking.uri=none", "optim.warmup_steps=0",
        "train.previews=false", "data.validation_clips=4",
    ]  # fmt: skip
    said = momu(lab, "submit", "--cluster", site, "chain", "--config", "configs/demo", *given)
    jobs = numbers(said)
    assert len(jobs) == 5, said
    wait_for_all(lab, jobs)
    assert [lab.state(job) for job in jobs] == ["COMPLETED"] * 5, said
    for stage in ("music_vae", "motion_vae", "dit_m2a", "dit_a2m"):
        assert (out / stage / "finished.json").is_file()
    listed = momu(lab, "status")
    assert all(re.search(rf"^\s*{job}\b.*DONE", listed, re.MULTILINE) for job in jobs), listed
    assert "trained:" in momu(lab, "logs", str(jobs[-1]))


def test_a_sweep_is_an_array(lab: Lab, field: Field, site: str) -> None:
    given = [
        *field.overrides("dit_a2m", "local", "swept", "train.max_steps=2", "train.previews=false"),
        f"out={field.root / 'sweep'}",
    ]
    given = [one for one in given if not one.startswith("name=")]
    path = str(ROOT / "configs" / "demo" / "dit_a2m.yaml")
    said = momu(lab, "submit", "--cluster", site, "dit_a2m", "--config", path, "--sweep", "seed=0,1", *given)
    (array,) = numbers(said)
    states = lambda: lab.run("sacct", "-j", str(array), "-X", "-n", "-P", "-o", "State").stdout.split()  # noqa: E731
    end = time.monotonic() + 120
    while states() != ["COMPLETED", "COMPLETED"]:
        assert time.monotonic() < end and not {"FAILED", "CANCELLED"} & set(states()), (said, states())
        time.sleep(0.5)
    assert sorted(path.name for path in (field.root / "sweep").iterdir()) == [
        "dit_a2m-seed-0",
        "dit_a2m-seed-1",
    ]


def test_a_program_runs_on_the_ray_of_a_job(lab: Lab, field: Field, site: str, tmp_path: Path) -> None:
    said = momu(lab, "submit", "--cluster", site, "--nodes", "2", "hold")
    (job,) = numbers(said)
    try:
        address = ROOT / "runs" / "slurm" / str(job) / "ray.json"
        end = time.monotonic() + 90
        while not address.is_file():
            assert time.monotonic() < end and lab.state(job) in ("PENDING", "RUNNING"), momu(
                lab, "logs", str(job)
            )
            time.sleep(0.2)
        assert address.stat().st_mode & 0o777 == 0o600
        program = "import ray; ray.init(); print('nodes:', len([n for n in ray.nodes() if n['Alive']]))"
        assert "nodes: 2" in momu(lab, "ray-job", str(job), "--", "python", "-c", program)
        # Without the token nobody gets in.
        facts = json.loads(address.read_text())
        bare = [
            sys.executable,
            "-c",
            f"import ray; ray.init(address={facts['address']!r}, logging_level='ERROR')",
        ]
        refused = lab.on_node(
            "node2", "env", "-u", "RAY_AUTH_TOKEN", "HOME=/nowhere", *bare, check=False, timeout=120
        )
        assert refused.returncode != 0
    finally:
        lab.cancel(job)
    end = time.monotonic() + 30
    while any(lab.processes(node) for node in lab.nodes):
        assert time.monotonic() < end, [lab.processes(node) for node in lab.nodes]
        time.sleep(0.2)
    lab.wait(job, "CANCELLED")


def test_the_doctor_looks_at_every_node(lab: Lab, site: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "momu_dist.cli", "doctor", "--cluster", site, "--nodes", "2"],
        capture_output=True, text=True, env=lab.env, cwd=ROOT, timeout=300,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert any("all 2 nodes" in line for line in lines), done.stdout + done.stderr
    assert any(re.match(r"fine\s+shared", line) or "one checkout" in line for line in lines), done.stdout
    assert not any(line.startswith("wrong") for line in lines), done.stdout
    assert done.returncode == 0
