"""What one run needs of a machine, worked by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from momu_dist.config.load import config_from_dict
from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.launch.doctor import run_checks as run
from momu_dist.launch.doctor.folders import existing
from momu_dist.train.dry_run import memory_gb, parameter_counts
from momu_dist.train.run import train

GB = 10**9


@pytest.fixture
def config() -> RunConfig:
    return config_from_dict(
        {
            "stage": "dit_a2m",
            "name": "run",
            "model": {"hidden_size": 64, "num_heads": 2, "depth": 1, "context_dim": 64},
            "train": {"global_batch": 16, "workers": 4, "strategy": "ddp"},
        },
        where="test",
    )


def test_memory(config: RunConfig) -> None:
    need = int(4 * sum(memory_gb(config).values()) * GB)
    assert run.check_memory(8 * GB, 8 * GB, None, 1, None).what == "8 GB of memory, all of the machine"
    assert "4 GB of memory of the machine's 8 GB" in run.check_memory(8 * GB, 4 * GB, config, 1, None).what
    levels = [run.check_memory(8 * GB, int(need * share), config, 1, None).level for share in (0.9, 1.5, 2.1)]
    assert levels == ["wrong", "warning", "fine"]
    # Two nodes share the workers; on GPUs each has its own.
    assert run.check_memory(8 * GB, int(need * 1.1), config, 2, None).level == "fine"
    assert run.check_memory(8 * GB, 8 * GB, config, 1, need // 5).level == "wrong"
    assert run.check_memory(8 * GB, 8 * GB, config, 1, need).level == "fine"
    assert 0 < run.machine_memory() < 1e15


def test_disk(config: RunConfig) -> None:
    need = run.checkpoints_size(config)
    folder = Path("/runs")
    assert need == sum(parameter_counts(config).values()) * 16 * 4
    levels = [run.check_disk(folder, int(need * share), None, config).level for share in (0.9, 1.5, 2.1)]
    assert levels == ["wrong", "warning", "fine"]
    assert "quota not known" in run.check_disk(folder, 9 * GB, None, None).what
    short = run.check_disk(folder, 9 * GB, need // 2, config)
    assert short.level == "wrong" and "the quota leaves" in short.what
    assert run.check_disk(folder, 10, None, None).level == "warning"


@pytest.mark.parametrize("stage", ["music_vae", "dit_m2a"])
def test_checkpoints_are_about_as_large_as_expected(
    stage: str,
    tiny_runs: Path,
    tiny_config,
    prepared: Manifest,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    more = ("model.ch=64",) if stage == "music_vae" else ("model.hidden_size=128",)
    config = tiny_config(stage, tmp_path, prepared.root, tiny_runs, more)
    folder = train(config)
    kept = [path for path in (folder / "checkpoints").iterdir() if path.name.startswith("step-")]
    one = run.checkpoints_size(config) / (config.train.keep_last + config.train.keep_best + 1)
    exports_of_others = ("music_vae", "motion_vae")
    for path in kept:
        files = [file for file in path.rglob("*") if file.is_file()]
        size = sum(f.stat().st_size for f in files if f.parent.name not in exports_of_others)
        assert 0.75 * one < size < 1.25 * one


def test_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path and existing(tmp_path) == tmp_path


def test_data(prepared: Manifest, tmp_path: Path) -> None:
    assert run.check_data(str(prepared.root)).level == "fine"
    assert run.check_data(str(tmp_path)).level == "wrong"


def test_where_runs_are_tracked(config: RunConfig) -> None:
    server = {"MLFLOW_TRACKING_URI": "http://login:5000"}
    assert run.tracking_uri({}, None) is None
    assert run.tracking_uri(server, None) == "http://login:5000"
    assert (run.tracking_uri({}, config) or "").endswith("runs/mlflow.db")
    assert run.tracking_uri(server, config) == "http://login:5000"
    none = replace(config, tracking=replace(config.tracking, uri="none"))
    assert run.tracking_uri(server, none) is None


def test_an_sqlite_file_wants_locks_that_work(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    assert run.check_tracking(uri, mounts=f"server:/x {tmp_path} nfs4 rw 0 0").level == "warning"
    assert run.check_tracking(uri, mounts=f"/dev/sda {tmp_path} xfs rw 0 0").level == "fine"


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code = {"/health": 200, "/login/health": 401}.get(self.path, 500)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Health) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def test_a_tracking_server(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    address = f"127.0.0.1:{server.server_port}"
    assert run.check_tracking(f"http://{address}/").level == "fine"
    assert run.check_tracking(f"http://{address}/login").level == "warning"
    assert run.check_tracking(f"http://{address}/broken").level == "wrong"
    with_login = run.check_tracking(f"http://me:secret@{address}/login")
    assert with_login.level == "fine" and "secret" not in with_login.what
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert run.check_tracking(f"http://{address}/login").level == "fine"
    assert run.check_tracking(f"postgresql://me:secret@{address}/mlflow").level == "fine"


def test_a_tracking_server_that_is_not_there() -> None:
    gone = run.check_tracking("postgresql+psycopg2://me:secret@127.0.0.1:9/mlflow", wait_s=1)
    assert gone.level == "wrong" and "secret" not in gone.what and "127.0.0.1:9" in gone.what
    assert run.check_tracking("http://127.0.0.1:9", wait_s=1).level == "wrong"
    assert run.check_tracking("some/folder").level == "wrong"
