"""`sbatch jobs/...` on a real cluster: two nodes, neighbours, time limits, preemption, lost nodes, mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from faults import Field, assert_every_sample_once, losses, steps_logged
from lab import FINAL, Lab
from momu_dist.launch.ports import plan
from momu_dist.launch.ray_cluster import SILENT_S
from momu_dist.launch.sites import SITE
from momu_dist.train.run import encode

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[3]
STEPS = 60
RUN_S = 240
SOON_S = 60
"""Within which a job that cannot work must have said so."""
OF_ANOTHER_JOB = {
    "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "5", "SLURM_JOB_GPUS": "0,1",
    "SLURM_MEM_PER_NODE": "100", "SLURM_LABELIO": "1", "SLURM_STDINMODE": "none", "SLURM_TIMELIMIT": "1",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x8",
}  # fmt: skip
"""What the shell of a job hands on to one that is submitted there, and SLURM leaves as it is."""
ALIVE = ("PENDING", "RUNNING", "COMPLETING", "SIGNALING")
"""States of a job that may come to its end; the last is seen for a moment while SLURM sends a signal."""


@dataclass(frozen=True)
class Submitted:
    """A training that was submitted, as a user does it."""

    lab: Lab
    number: int
    run: Path
    config: Any
    log: Path

    @property
    def folder(self) -> Path:
        return ROOT / "runs" / "slurm" / str(self.number)

    def status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def until(self, reached: Callable[[], Any], what: str, timeout: float = RUN_S) -> None:
        end = time.monotonic() + timeout
        while not reached():
            state = self.lab.state(self.number)
            if reached():  # it came to that and to its end between two looks
                return
            assert state in ALIVE, f"{state} before {what}:\n{self.text()}"
            assert time.monotonic() < end, f"no {what} within {timeout} s:\n{self.text()}"
            time.sleep(0.1)

    def until_step(self, step: int, timeout: float = RUN_S) -> None:
        self.until(lambda: max(steps_logged(self.run), default=-1) >= step, f"step {step}", timeout)

    def events(self) -> str:
        return (self.run / "events.log").read_text()

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else "no log"

    def completes(self, timeout: float = RUN_S) -> None:
        self.until(lambda: self.lab.state(self.number) == "COMPLETED", "end", timeout)
        assert self.lab.exit_code(self.number) == "0:0"
        self.leaves_nothing()

    def leaves_nothing(self) -> None:
        """No process, port or folder of this job is left on any node that is on."""
        for node in self.lab.nodes:
            assert self.lab.processes(node) == []
            assert self.lab.listening(node) == set()
            assert self.lab.files(node, f"momu-*-{self.number}") == []
        assert not (self.folder / "token").exists()


@pytest.fixture
def submit(lab: Lab, field: Field, tmp_path: Path) -> Iterator[Callable[..., Submitted]]:
    """(name, flags of sbatch, overrides) -> a submitted training on two nodes with a worker on each."""
    jobs: list[int] = []

    def submitted(
        name: str,
        *more: str,
        extra: tuple[str, ...] = (),
        flags: tuple[str, ...] = ("-N2",),
        env: dict[str, str] | None = None,
    ) -> Submitted:
        # Two workers on two CPU cores: steps take some 50 ms.
        given = ["train.threads=1", f"train.max_steps={STEPS}", "train.checkpoint_every=10", *more]
        config = field.config("dit_a2m", "ddp", name, *given)
        script = str(ROOT / "jobs" / "train_dit.sh")
        number = lab.sbatch(
            *flags, f"--output={tmp_path}/%x-%j.out", script,
            "--config", str(ROOT / "configs" / "demo" / "dit_a2m.yaml"),
            *field.overrides("dit_a2m", "ddp", name, *given), *extra,
            cwd=ROOT, env={"OMP_NUM_THREADS": "1", **(env or {})},
        )  # fmt: skip
        jobs.append(number)
        return Submitted(
            lab, number, field.root / "runs" / name, config, tmp_path / f"train_dit-{number}.out"
        )

    yield submitted
    for number in jobs:  # what a test that failed left would take the cores from the next one
        if lab.state(number) not in FINAL:
            lab.cancel(number)
    end = time.monotonic() + 60
    while any(lab.state(number) not in FINAL for number in jobs) and time.monotonic() < end:
        time.sleep(0.2)


def of_site(folder: Path, settings: str) -> dict[str, str]:
    """Write a site's YAML; return the environment for a job of that site."""
    path = folder / "site.yaml"
    path.write_text(f"{settings}\n")
    return {SITE: str(path)}


def kill_ray(job: Submitted, node: str) -> None:
    """Kill the raylet of a job on one of its nodes, and nothing else there."""
    pattern = f"/raylet/raylet .*/momu-{os.getuid()}-{job.number}/"
    found = job.lab.on_node(node, "pgrep", "-f", pattern, check=False).stdout.split()
    assert len(found) == 1, (found, job.lab.processes(node))
    job.lab.on_node(node, "kill", "-KILL", found[0])


def test_a_training_reads_from_the_disk_of_each_node_and_does_without_a_ray_that_dies(
    submit: Callable[..., Submitted], lab: Lab, field: Field, tmp_path: Path
) -> None:
    """Data is staged, and what all nodes see of it is gone before the training begins; nobody makes it anew."""
    encode(field.config("dit_a2m", "local", "staged"))
    data = tmp_path / "data"
    shutil.copytree(field.data.root, data)
    given = ("train.max_steps=200", "train.min_workers=1")
    temporary = [lab.files(node, "pymp-*") for node in lab.nodes]
    job = submit("two-nodes", *given, extra=(f"data.root={data}",), env=of_site(tmp_path, "stage_data: true"))
    job.until(lambda: "Ray is up on 2 nodes" in job.text(), "Ray")
    shutil.rmtree(data / "latents")
    job.until_step(1)
    workers = [[line for line in lab.processes(node) if "RayTrainWorker" in line] for node in lab.nodes]
    assert [len(found) for found in workers] == [1, 1]
    copies = {node: lab.files(node, f"momu-*-{job.number}/shards/latents.json") for node in lab.nodes}
    assert all(copies.values()), copies
    token = job.folder / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    job.until_step(20)
    kill_ray(job, "node2")
    job.completes()  # the copies have gone with everything else
    assert [lab.files(node, "pymp-*") for node in lab.nodes] == temporary
    assert not (data / "latents").exists()
    assert lab.accounting(job.number) == [("COMPLETED", "0:0")]
    assert_every_sample_once(field, job.config, job.run)
    assert "node2 was lost (Ray ended with exit code" in job.text() and "goes on at step" in job.events()
    status = job.status()
    assert status["restart"] == 0
    assert status["ended"]["code"] == 0 and not status["ended"]["requeued"] and status["step"] == 200
    assert [node["name"] for node in status["nodes"]] == list(lab.nodes)
    phases = {"checks", "nodes", "staging", "ray", "workers", "first step", "training"}
    assert phases <= status["phases_s"].keys()


def test_neighbours_are_not_disturbed(submit: Callable[..., Submitted], lab: Lab, field: Field) -> None:
    """A plain Ray on each node, at Ray's own ports and in its own folder, and a second job of ours.

    It is another user's where one may run this checkout's Python; else ours, and nothing keeps them apart but that each
    ends only what it started.
    """
    with neighbours(lab) as (ray, theirs):
        half = ("-N2", "--cpus-per-task=2")
        one = submit("neighbour-one", "train.max_steps=100000", "train.checkpoint_every=1000", flags=half)
        one.until_step(0)
        for node in lab.nodes:  # it trains on while the other starts, but without taking the cores from it
            lab.give_way(node, "RayTrainWorker")
        # One after the other: on two cores six Rays that start at once take longer than Ray allows itself.
        two = submit("neighbour-two", flags=half)
        two.until(lambda: lab.state(two.number) == "COMPLETED", "end")
        assert_every_sample_once(field, two.config, two.run)
        seen = max(steps_logged(one.run))
        one.until_step(seen + 10)
        (one.run / "stop").touch()
        one.until(lambda: lab.state(one.number) == "FAILED", "end")
        assert lab.exit_code(one.number) == "75:0" and not one.status()["ended"]["requeued"]
        steps = steps_logged(one.run)
        assert (one.status()["failures"], one.status()["step"]) == (0, steps[-1])
        assert steps == list(range(1, len(steps) + 1))
        for node in lab.nodes:
            assert set(lab.processes(node)) == theirs[node]
            status = lab.on_node(node, *ray, "status", f"--address={NEIGHBOUR}")
            assert "1 node_" in status.stdout
    for job in (one, two):
        job.leaves_nothing()


NEIGHBOUR = "127.0.0.1:6379"
OWN_RAY = ("env", "HOME=/tmp/neighbour", "RAY_AUTH_MODE=disabled", str(ROOT / ".venv" / "bin" / "ray"))
ANOTHER = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


@contextmanager
def neighbours(lab: Lab) -> Iterator[tuple[tuple[str, ...], dict[str, set[str]]]]:
    """A Ray on each node that is none of ours: its command, and its processes there."""
    start = (
        *("start", "--head", "--port=6379", "--node-ip-address=127.0.0.1", "--num-cpus=1"),
        *("--disable-usage-stats", "--include-dashboard=false", "--object-store-memory=100000000"),
    )
    can = lab.on_node(lab.nodes[0], *ANOTHER, *OWN_RAY, "--version", check=False).returncode == 0
    ray = (*ANOTHER, *OWN_RAY) if can else OWN_RAY
    try:
        for node in lab.nodes:
            lab.on_node(node, "install", "-d", "-o", "nobody" if can else "root", "/tmp/neighbour")
            assert "Ray runtime started" in lab.on_node(node, *ray, *start).stdout
        found = {node: set(lab.processes(node)) for node in lab.nodes}
        assert all(any("gcs_server" in line for line in lines) for lines in found.values())
        yield ray, found
    finally:
        for node in lab.nodes:
            lab.on_node(node, *ray, "stop", "--force", check=False)
            lab.on_node(node, "rm", "-rf", "/tmp/ray", "/tmp/neighbour")


def test_a_time_limit_and_a_preemption_cost_nothing(
    submit: Callable[..., Submitted], lab: Lab, field: Field, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    flags = ("-N2", "--signal=B:USR2@60", "--time=10")
    from mlflow.tracking import MlflowClient

    given = ("train.max_steps=900", f"tracking.uri={store}")
    job = submit("interrupted", *given, flags=flags, env=OF_ANOTHER_JOB)
    job.until_step(5)
    given_to_nodes = [(node["gpus"], node["memory_mb"]) for node in job.status()["nodes"]]
    assert given_to_nodes == [(0, 4000)] * 2 and job.status()["restart"] == 0
    lab.set_end(job.number, 65)  # SLURM looks at limits every half minute
    job.until(lambda: job.status().get("restart") == 1, "restart after the time limit")
    # The moved end has become a limit of few minutes, which the next starts would meet too.
    lab.set_limit(job.number, 10)
    first = job.status()["before"][0]
    assert first["ended"]["code"] == 75 and first["ended"]["requeued"] and first["failures"] == 0
    before = max(steps_logged(job.run))
    job.until(lambda: "goes on at step" in job.events(), "next start")
    job.until_step(before + 20)
    lab.run("srun", "-p", "urgent", "-N2", "--exclusive", "true", timeout=240)
    job.until(lambda: job.status().get("restart") == 2, "restart after the preemption")
    # SLURM 22.05 forgets that it was preempted as soon as it is in the queue again.
    assert re.search("as it was (preempted|put back into the queue)", job.text())
    job.completes(timeout=2 * RUN_S)
    assert_every_sample_once(field, job.config, job.run)
    client = MlflowClient(store)
    assert len(client.search_runs([one.experiment_id for one in client.search_experiments()])) == 1
    assert [step for step, _ in losses(job.run)] == list(range(1, 901))


def test_a_time_of_grace_is_used_to_save(submit: Callable[..., Submitted], lab: Lab, field: Field) -> None:
    """There is no other checkpoint, so what was done before it goes on only if it was saved then.

    SLURM tells only the steps of the job, and not its batch script.
    """
    if "proctrack/cgroup" not in lab.config.slurm_conf.read_text():
        pytest.skip(
            "without cgroups SLURM sends SIGTERM to each of Ray's processes, and nothing can be saved"
        )
    given = ("train.max_steps=300", "train.checkpoint_every=100000")
    job = submit("graceful", *given, flags=("-N2", "--partition=graceful"))
    job.until_step(20)
    lab.run("srun", "-p", "urgent", "-N2", "--exclusive", "true", timeout=240)
    job.until(lambda: job.status().get("restart") == 1, "restart after the preemption")
    assert "SIGTERM to its nodes from SLURM" in job.text()
    first = job.status()["before"][0]
    assert first["ended"]["code"] == 75 and first["ended"]["requeued"] and first["failures"] == 0
    job.completes()
    assert re.findall(r"goes on at step (\d+)", job.events()) == [str(first["step"])] and first["step"] >= 20
    assert steps_logged(job.run) == list(range(1, 301))
    assert_every_sample_once(field, job.config, job.run)


def test_a_job_that_was_suspended_goes_on(submit: Callable[..., Submitted], lab: Lab, field: Field) -> None:
    """Its launcher hears no node meanwhile."""
    job = submit("suspended", "train.max_steps=200")
    job.until_step(20)
    lab.run("scontrol", "suspend", str(job.number))
    time.sleep(SILENT_S + 10)
    lab.run("scontrol", "resume", str(job.number))
    job.completes()
    assert job.status()["restart"] == 0 and "was lost" not in job.text()
    assert_every_sample_once(field, job.config, job.run)


def test_a_worker_node_that_dies_is_done_without(
    submit: Callable[..., Submitted], lab: Lab, field: Field, tmp_path: Path
) -> None:
    # Ray holds a node for lost after 40 s without an answer instead of 65 s; SLURM does after 30 s.
    hasty = of_site(tmp_path, 'env: {RAY_health_check_failure_threshold: "3"}')
    job = submit("goes-on", "train.max_steps=200", "train.min_workers=1", env=hasty)
    job.until_step(20)
    lab.power_off("node2")
    try:
        job.until(lambda: lab.state(job.number) == "COMPLETED", "end", 2 * RUN_S)
        assert "goes on at step" in job.events()
        assert job.status()["restart"] == 0 and "node2 was lost" in job.text()
        assert_every_sample_once(field, job.config, job.run)
    finally:
        lab.power_on("node2")
        lab.wait_node("node2", "idle")
    job.leaves_nothing()


def test_a_ray_and_nodes_that_die_send_the_job_back_to_the_queue(
    submit: Callable[..., Submitted], lab: Lab, field: Field, tmp_path: Path
) -> None:
    """Ray on a worker's node, then that node, then the node of the batch script; the job goes on after each."""
    # A node gives up after 10 s without a connection to the head's Ray instead of 30 s.
    hasty = of_site(tmp_path, 'env: {RAY_gcs_rpc_server_reconnect_timeout_s: "10"}')
    job = submit("requeued", "train.max_steps=400", env=hasty)
    job.until_step(20)
    logs = job.folder / "ray-node2.r0"
    shutil.rmtree(logs, ignore_errors=True)  # of a job of this number on an earlier cluster
    kill_ray(job, "node2")
    before = goes_on_after(job, restart=1)
    reason = "node2 was lost, and train.min_workers is not set: Ray ended with exit code"
    ended = job.status()["before"][0]["ended"]
    assert ended["code"] == 1 and ended["requeued"] and ended["first_failure"].startswith(reason)
    assert f"first to fail: {reason}" in job.text()
    assert list(logs.glob("raylet*")), f"no logs of Ray in {logs}"
    for restart, node in ((2, "node2"), (3, "node1")):
        job.until_step(before + 20)
        lab.power_off(node)
        try:
            lab.wait_node(node, "down")
        finally:
            lab.power_on(node)
            lab.wait_node(node, "idle", "mixed", "allocated")
        before = goes_on_after(job, restart)
    job.completes(2 * RUN_S)
    assert job.status()["restart"] == 3
    assert_every_sample_once(field, job.config, job.run)


def goes_on_after(job: Submitted, restart: int) -> int:
    """Wait until a job has been started again for the `restart`th time and trains; return the last step before that."""
    job.until(lambda: job.status().get("restart") == restart, f"restart {restart}")
    before = max(steps_logged(job.run))
    job.until(lambda: job.events().count("goes on at step") >= restart, f"start {restart + 1}")
    return before


def fails_soon(job: Submitted, reason: str, cleared: bool = True) -> None:
    """It ends with a code within a minute of its start, and says why in its last five lines."""
    job.until(lambda: job.lab.state(job.number) in ("RUNNING", "FAILED"), "start")
    began = time.monotonic()
    while job.lab.state(job.number) != "FAILED":
        assert time.monotonic() - began < SOON_S, job.text()
        time.sleep(0.1)
    assert job.lab.exit_code(job.number) != "0:0"
    last = job.text().splitlines()[-5:]
    assert any(reason in line for line in last), job.text()
    assert job.status()["ended"]["requeued"] is False
    if cleared:
        job.leaves_nothing()


def test_a_bad_config_is_said_soon(submit: Callable[..., Submitted]) -> None:
    fails_soon(submit("bad-config", extra=("train.wrokers=2",)), "unknown key train.wrokers")


def test_data_that_is_not_there_is_said_soon(submit: Callable[..., Submitted], tmp_path: Path) -> None:
    fails_soon(submit("no-data", extra=(f"data.root={tmp_path / 'nowhere'}",)), str(tmp_path / "nowhere"))


def test_a_folder_that_is_not_shared_is_said_soon(
    submit: Callable[..., Submitted], lab: Lab, field: Field
) -> None:
    """It is on the node of the batch script only, so only the other node can know."""
    lab.on_node("node1", "cp", "-r", str(field.data.root), "/tmp/mine")
    try:
        job = submit("not-shared", extra=("data.root=/tmp/mine",))
        fails_soon(job, "node2: the folder /tmp/mine is not there")
    finally:
        lab.on_node("node1", "rm", "-r", "/tmp/mine")


def test_a_folder_to_write_to_that_each_node_has_for_itself_is_said_soon(
    submit: Callable[..., Submitted], lab: Lab
) -> None:
    """It is there on both nodes, and what one of them writes the other one never sees."""
    for node in lab.nodes:
        lab.on_node(node, "mkdir", "/tmp/own")
    try:
        job = submit("own-folder", extra=("out=/tmp/own",))
        fails_soon(job, "node2: the folder /tmp/own is another one than on node1")
    finally:
        for node in lab.nodes:
            lab.on_node(node, "rm", "-r", "/tmp/own")


def test_gpus_that_torch_cannot_use_are_said_soon(submit: Callable[..., Submitted]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs, and the nodes declare them")
    job = submit("no-cuda", extra=("train.device=auto",), flags=("-N2", "--gpus-per-node=2"))
    fails_soon(job, "SLURM gave this job 2 GPUs a node")


def test_a_port_in_use_is_said_soon(submit: Callable[..., Submitted], lab: Lab) -> None:
    job = submit("port", flags=("-N2", "--hold"))
    port = plan(job.number).named()["object-manager-port"]
    listen = f"import socket, time; s = socket.create_server(('', {port})); time.sleep(600)"
    pid = lab.on_node("node2", "sh", "-c", f'python3 -c "{listen}" > /dev/null 2>&1 & echo $!').stdout.strip()
    try:
        job.until(lambda: port in lab.listening("node2"), "listener", 10)
        lab.run("scontrol", "release", str(job.number))
        fails_soon(job, f"node2: port {port} is in use", cleared=False)
    finally:
        lab.on_node("node2", "kill", pid)
    end = time.monotonic() + 10
    while lab.processes("node2"):
        assert time.monotonic() < end, lab.processes("node2")
        time.sleep(0.1)
    job.leaves_nothing()


def test_an_installation_that_is_broken_is_said_soon(
    submit: Callable[..., Submitted], tmp_path: Path
) -> None:
    """On the nodes, by the site; what the shell that submits names as PYTHONPATH reaches no job."""
    (tmp_path / "ray.py").write_text("raise RuntimeError('this Ray is broken')\n")
    (tmp_path / "shell").mkdir()
    (tmp_path / "shell" / "torch.py").write_text("raise RuntimeError('the torch of the shell')\n")
    site = tmp_path / "site.yaml"
    site.write_text(f"env: {{PYTHONPATH: {json.dumps(str(tmp_path))}}}\n")
    job = submit("broken", env={"PYTHONPATH": str(tmp_path / "shell"), "MOMU_CLUSTER": str(site)})
    fails_soon(job, "this Ray is broken")
    assert "the torch of the shell" not in job.text()


def test_a_job_from_elsewhere_says_where_to_submit(lab: Lab, tmp_path: Path) -> None:
    number = lab.sbatch(f"--output={tmp_path}/log", str(ROOT / "jobs" / "train_dit.sh"), cwd=tmp_path)
    lab.wait(number, "FAILED")
    assert lab.exit_code(number) == "2:0"
    assert "submit from the checkout" in (tmp_path / "log").read_text()
