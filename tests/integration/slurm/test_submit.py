"""`momu submit`, `status`, `logs`, `ray-job` and `doctor` on a real cluster, as a user on the login node."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults import Field, assert_every_sample_once, steps_logged
from lab import FINAL, Lab
from momu_dist.train.run import train

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


def sweep(lab: Lab, field: Field, site: str, out: Path, *more: str) -> int:
    """Submit two runs in single processes that differ in their seed; return the array's number."""
    given = [*field.overrides("dit_a2m", "local", "swept", "train.previews=false", *more), f"out={out}"]
    given = [one for one in given if not one.startswith("name=")]
    path = str(ROOT / "configs" / "demo" / "dit_a2m.yaml")
    said = momu(lab, "submit", "--cluster", site, "dit_a2m", "--config", path, "--sweep", "seed=0,1", *given)
    (array,) = numbers(said)
    return array


def succeed(lab: Lab, array: int) -> list[str]:
    """Wait until both elements of an array have, and have left the queue; return their own numbers."""
    elements = [f"{array}_{index}" for index in (0, 1)]
    for element in elements:
        lab.wait(element, "COMPLETED")
    return [lab.facts(element)["JobId"] for element in elements]


def test_a_sweep_is_an_array(lab: Lab, field: Field, site: str) -> None:
    succeed(lab, sweep(lab, field, site, field.root / "sweep", "train.max_steps=2"))
    assert sorted(path.name for path in (field.root / "sweep").iterdir()) == [
        "dit_a2m-seed-0",
        "dit_a2m-seed-1",
    ]


def test_evaluations_say_their_scores(lab: Lab, field: Field, site: str) -> None:
    trained = train(field.config("dit_a2m", "local", "scored", "train.max_steps=2", "train.previews=false"))
    given = (f"checkpoint={trained}", f"data={field.data.root}", "split=train", "n=2", "steps=1")
    said = momu(lab, "submit", "--cluster", site, "evaluate", *given, "--sweep", "guidance=1,2")
    (array,) = numbers(said)
    jobs = succeed(lab, array)
    listed = momu(lab, "status")
    for guidance, job in enumerate(jobs, 1):
        line = rf"^\s*{job}\b.*DONE.* evaluate-guidance-{guidance}: beat F1 of a2m [01]\."
        assert re.search(line, listed, re.MULTILINE), listed


def test_an_element_of_a_sweep_is_requeued_alone(lab: Lab, field: Field, site: str) -> None:
    """It is the one whose own number is the array's: by that number SLURM would requeue all elements.

    The signal is that of a time limit, sent by hand, as SLURM looks at limits every half minute only.
    """
    out = field.root / "requeued-sweep"
    given = ("train.max_steps=400", "train.checkpoint_every=100000")
    array = sweep(lab, field, site, out, *given)
    runs = {f"{array}_{seed}": out / f"dit_a2m-seed-{seed}" for seed in (0, 1)}
    try:
        for element in runs:
            lab.wait(element, "RUNNING")
        (asked,) = [element for element in runs if lab.facts(element)["JobId"] == str(array)]
        (other,) = runs.keys() - {asked}
        end = time.monotonic() + 120
        while max(steps_logged(runs[asked]), default=0) < 5:
            assert time.monotonic() < end and lab.state(asked) == "RUNNING", momu(lab, "logs", str(array))
            time.sleep(0.05)
        lab.run("scancel", "--signal=USR2", "--batch", asked)
        for element in runs:
            lab.wait(element, "COMPLETED", timeout=240)
    finally:
        lab.run("scancel", str(array), check=False)
    assert {element: lab.facts(element)["Restarts"] for element in runs} == {asked: "1", other: "0"}
    (before,) = json.loads((ROOT / "runs" / "slurm" / str(array) / "status.json").read_text())["before"]
    assert before["ended"]["code"] == 75 and before["ended"]["requeued"] and before["step"] >= 5
    starts = {
        element: re.findall(r"begins with|goes on at step \d+", (run / "events.log").read_text())
        for element, run in runs.items()
    }
    assert starts == {asked: ["begins with", f"goes on at step {before['step']}"], other: ["begins with"]}
    for element, run in runs.items():
        assert steps_logged(run) == list(range(1, 401))
        more = (*given, f"out={out}", f"seed={element.rpartition('_')[2]}")
        assert_every_sample_once(field, field.config("dit_a2m", "local", run.name, *more), run)


def test_a_program_runs_on_the_ray_of_a_job(lab: Lab, field: Field, site: str, tmp_path: Path) -> None:
    """That Ray has the GPUs which SLURM gave to the job; here they are only declared."""
    given = ("--nodes", "2", "--sbatch", "gpus-per-node=2")
    said = momu(lab, "submit", "--cluster", site, *given, "hold")
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
        program = (
            "import ray; ray.init(); nodes = [n for n in ray.nodes() if n['Alive']]; print('nodes:', len(nodes)); "
            "print('GPUs:', [n['Resources'].get('GPU') for n in nodes])"
        )
        said = momu(lab, "ray-job", str(job), "--", "python", "-c", program)
        assert "nodes: 2" in said and "GPUs: [2.0, 2.0]" in said
        status = json.loads((address.parent / "status.json").read_text())
        assert [node["gpus"] for node in status["nodes"]] == [2, 2]
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
    assert re.search(
        rf"^\s*{job}\b.* it was cancelled: held until it was told to end", momu(lab, "status"), re.MULTILINE
    )


def test_jobs_that_leave_the_queue_before_they_begin_are_told_of(lab: Lab, site: str) -> None:
    later = ("--sbatch", "begin=now+1hour")
    (first,) = numbers(momu(lab, "submit", "--cluster", site, *later, "hold"))
    (second,) = numbers(momu(lab, "submit", "--cluster", site, "--after", str(first), "hold"))
    listed = momu(lab, "status")
    assert re.search(rf"^\s*{first}\b.*PENDING.* waits: BeginTime", listed, re.MULTILINE), listed
    assert re.search(rf"^\s*{second}\b.*PENDING.* waits: Dependency \(on {first}\)", listed, re.MULTILINE), (
        listed
    )
    lab.cancel(first)
    wait_for_all(lab, [first, second], timeout=90)
    for job in (first, second):
        end = time.monotonic() + 30  # accounting is some seconds behind
        while "CANCELLED" not in (said := momu(lab, "status", str(job))):
            assert time.monotonic() < end and "REMOVED" in said, said
            time.sleep(0.5)
        assert "left the queue before it began" in said and "submit it again" in said
    assert "has ended without success" in momu(lab, "submit", "--after", str(first), "hold", code=2)


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
