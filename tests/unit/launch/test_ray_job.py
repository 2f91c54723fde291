"""What momu ray-job would upload, and the command it runs."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from momu_dist.cli import main
from momu_dist.errors import ConfigError
from momu_dist.launch import ray_job
from momu_dist.launch.facts import RayOfJob
from momu_dist.launch.ray_job import EXCLUDED, check_upload, ray_job_command, upload_sizes
from momu_dist.launch.srun import srun

RAY = RayOfJob(
    head="node1", address="10.0.0.1:6379", dashboard="http://127.0.0.1:8265", token_file="/shared/runs/slurm/7/token"
)  # fmt: skip


def fill(root: Path, **sizes: int) -> None:
    for name, size in sizes.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)  # takes no room on the disk


def test_sizes_are_those_of_what_ray_zips(tmp_path: Path) -> None:
    """Ray's own packing of the same folder with the same excludes makes a file of nearly that size."""
    from ray._private.runtime_env.packaging import create_package

    root, package = tmp_path / "checkout", tmp_path / "package.zip"
    fill(root, a=1000, code__b=2000, code__deep__c=3000, code__data__d=500, runs__x=10**6, data__y=10**6)
    fill(root, weights__w=10**6, wheelhouse__torch=10**6)
    for folder in (".git", ".venv", ".cache", "code/__pycache__"):
        (root / folder).mkdir()
        (root / folder / "big").write_bytes(b"x" * 10**6)
    (root / "link").symlink_to(root / "code")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    sizes = upload_sizes(root)
    assert sorted(sizes) == ["a", "code", "link"] and sizes["link"] >= 5500
    command = ray_job_command("7", RAY, ["python"], root, upload=True)
    excludes = json.loads(command[command.index("--runtime-env-json") + 1])["excludes"]
    create_package(str(root), package, include_gitignore=False, excludes=excludes)
    packed = package.stat().st_size
    assert packed <= sum(sizes.values()) + 200 <= packed + 500


def test_too_much_is_refused_with_the_largest_named(tmp_path: Path) -> None:
    fill(tmp_path, old__a=70 * 1024**2, old__b=20 * 1024**2, c=9 * 1024**2)
    check_upload(tmp_path)
    fill(tmp_path, d=2 * 1024**2, runs__e=10**9)
    with pytest.raises(
        Exception, match=r"would upload 101\.0 MiB, .* old \(90\.0 MiB\), c \(9\.0 MiB\), d \(2\.0"
    ):
        check_upload(tmp_path)


@pytest.mark.parametrize("place", ["", "code"])
def test_what_ray_would_read_without_an_end_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    os.mkfifo(tmp_path / "runs" / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
    check_upload(tmp_path)
    (tmp_path / "code").mkdir()
    os.mkfifo(tmp_path / place / "pipe")
    with pytest.raises(ConfigError, match=rf"{tmp_path / place / 'pipe'} is a named pipe or a device"):
        check_upload(tmp_path)
    (tmp_path / place / "pipe").unlink()
    (tmp_path / place / "zero").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="zero is a named pipe or a device"):
        check_upload(tmp_path)


def test_the_command_runs_on_the_head_node_and_hands_words_on_as_they_are() -> None:
    words = ["python", "-m", "momu_dist.train", "--config", "a b.yaml", "out='x; y'"]
    command = ray_job_command("7", RAY, words, Path("/a b"), upload=True)
    dashes = command.index("--")
    ray = str(Path(sys.executable).parent / "ray")
    assert command[: command.index(ray)] == srun(1, 1, "--overlap", "--jobid=7", "--nodelist=node1")
    assert command[command.index(ray) : command.index("--address")] == [ray, "job", "submit"]
    assert command[command.index("--address") + 1] == "http://127.0.0.1:8265"
    assert command[command.index("--working-dir") + 1] == "/a b"
    assert command[dashes + 1 :] == [sys.executable, *words[1:]]

    shared = ray_job_command("7", RAY, ["bash", "-c", "x"], Path("/a b"), upload=False)
    assert "--working-dir" not in shared
    assert shared[shared.index("--") + 1 :] == ["env", "--chdir=/a b", "bash", "-c", "x"]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with job 7, whose Ray is up, and an srun that keeps its words and variables."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "runs" / "slurm" / "7"
    home.mkdir(parents=True)
    (home / "ray.json").write_text(RAY.model_dump_json())
    (home / "status.json").write_text(json.dumps({"job": 7, "phase": "holding", "ended": None}))
    srun = tmp_path / "runs" / "srun"
    srun.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" > runs/words\nenv > runs/variables\nexit "${CODE:-0}"\n'
    )
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")  # of an allocation that it is called in
    return tmp_path


def test_it_is_run_with_the_address_and_the_token_of_the_job(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["ray-job", "--no-upload", "7", "--", "python", "-m", "x", "--flag", "--", "y"]) == 0
    words = (job / "runs" / "words").read_text().splitlines()
    assert words[words.index("--") + 1 :] == [
        "env",
        f"--chdir={job}",
        sys.executable,
        "-m",
        "x",
        "--flag",
        "--",
        "y",
    ]
    variables = (job / "runs" / "variables").read_text().splitlines()
    assert "RAY_AUTH_MODE=token" in variables and f"RAY_AUTH_TOKEN_PATH={RAY.token_file}" in variables
    assert f"RAY_ADDRESS={RAY.dashboard}" in variables
    assert not any(line.startswith(("RAY_AUTH_TOKEN=", "SLURM_EXPORT_ENV=")) for line in variables)
    monkeypatch.setenv("CODE", "3")
    with pytest.raises(SystemExit) as stop:
        main(["ray-job", "7", "--", "true"])
    assert stop.value.code == 3


@pytest.mark.parametrize("arguments", [["7"], ["7", "--"], ["7", "--no-upload", "--", "x"]])
def test_what_is_no_command(arguments: list[str], job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ray-job", *arguments]) == 2
    assert "give its own options, the job, then -- and the command" in capsys.readouterr().err


def test_too_large_a_checkout_is_not_sent(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_job, "LIMIT", 1024**2)
    fill(job, big=2 * 1024**2)
    assert main(["ray-job", "7", "--", "x"]) == 2
    assert "largest: big (2.0 MiB)" in capsys.readouterr().err and not (job / "runs" / "words").exists()
    assert main(["ray-job", "--no-upload", "7", "--", "x"]) == 0


def test_a_job_without_a_ray(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = job / "runs" / "slurm" / "7"
    assert main(["ray-job", "8", "--", "x"]) == 2
    assert f"no Ray at {job}/runs/slurm/8/ray.json (phase: none)" in capsys.readouterr().err
    (home / "ray.json").unlink()
    assert main(["ray-job", "7", "--", "x"]) == 2
    assert "(phase: holding)" in capsys.readouterr().err
    (home / "status.json").write_text(json.dumps({"ended": {"code": 0, "why": "done"}}))
    assert main(["ray-job", "7", "--", "x"]) == 2
    assert "job 7 has ended (done); its Ray went with it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["status.json", "ray.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"ended": "x", "head": 3}', '{"nodes": 3}'])
def test_odd_files_of_a_job_end_in_a_sentence(
    name: str, text: str, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / "runs" / "slurm" / "7" / name).write_text(text)
    assert main(["ray-job", "7", "--", "x"]) == 2
    assert f"error: runs/slurm/7/{name} is not what a job writes there" in capsys.readouterr().err


def test_what_is_excluded_is_not_code() -> None:
    assert "momu_dist" not in EXCLUDED and "configs" not in EXCLUDED
