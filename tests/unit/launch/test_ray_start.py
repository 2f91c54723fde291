"""Ray's command line on a node."""

from __future__ import annotations

import pytest

from momu_dist.launch import ray_start
from momu_dist.launch.ports import plan
from momu_dist.launch.ray_start import ray_command


def test_ray_is_told_everything() -> None:
    has = {"cpus": 4, "gpus": 2, "memory_mb": 8000}
    command = ray_command(plan(7), "10.0.0.2", "10.0.0.1", "/tmp/momu-0-7", has)
    assert f"--address=10.0.0.1:{plan(7).gcs}" in command and "--head" not in command
    assert "--node-ip-address=10.0.0.2" in command
    assert "--num-cpus=4" in command and "--num-gpus=2" in command and "--temp-dir=/tmp/momu-0-7" in command
    assert not any(part.startswith("--dashboard-port") for part in command)
    head = ray_command(plan(7), "10.0.0.1", None, "/tmp/momu-0-7", has)
    assert "--dashboard-host=127.0.0.1" in head and f"--port={plan(7).gcs}" in head
    assert not any(part.startswith("--address") for part in head)


@pytest.mark.parametrize(("shm", "store"), [(100_000, 2400), (2000, 1600), (51, 100)])
def test_ray_starts_where_there_is_hardly_any_shared_memory(
    monkeypatch: pytest.MonkeyPatch, shm: int, store: int
) -> None:
    """A container has 64 MiB by default, and Ray wants 75 at least."""
    monkeypatch.setattr(ray_start, "shared_memory_mb", lambda: shm)
    has = {"cpus": 4, "gpus": 0, "memory_mb": 8000}
    command = ray_command(plan(7), "10.0.0.1", None, "/tmp/momu-0-7", has)
    assert f"--object-store-memory={store * 2**20}" in command
    assert f"--memory={(8000 - store) * 2**20}" in command
