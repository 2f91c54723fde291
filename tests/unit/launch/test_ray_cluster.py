"""What the launcher knows of its nodes."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from momu_dist.errors import ConfigError
from momu_dist.launch.allocation import Allocation
from momu_dist.launch.facts import read_ray
from momu_dist.launch.policy import for_the_user
from momu_dist.launch.ports import plan
from momu_dist.launch.ray_cluster import (
    CHECKS_S,
    SILENT_S,
    Node,
    NodeFailure,
    RayCluster,
    address_of,
    forget_secrets,
    signed,
)
from momu_dist.launch.status import job_folder


def names_fail(monkeypatch: pytest.MonkeyPatch, *faults: socket.gaierror) -> None:
    """Each name that is looked up has the next of these faults."""
    left = iter(faults)

    def fails(*_: object) -> None:
        raise next(left)

    monkeypatch.setattr(socket, "gethostbyname", fails)
    monkeypatch.setattr(socket.socket, "connect", fails)


NO_IPV4 = socket.gaierror(socket.EAI_ADDRFAMILY, "Address family for hostname not supported")
BUSY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def test_names_without_an_ipv4_address_are_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    names_fail(monkeypatch, NO_IPV4, NO_IPV4, NO_IPV4)
    with pytest.raises(ConfigError, match="no IPv4 address of n1 .* must mean IPv4 addresses"):
        address_of("n1", others=["n2"])
    assert address_of("n1", others=[]) == "127.0.0.1"


@pytest.mark.parametrize("faults", [(BUSY, NO_IPV4), (NO_IPV4, BUSY)], ids=["own name", "other name"])
def test_a_name_server_that_is_busy_for_a_moment_is_nothing_for_the_user(
    monkeypatch: pytest.MonkeyPatch, faults: tuple[socket.gaierror, ...]
) -> None:
    names_fail(monkeypatch, *faults)
    with pytest.raises(socket.gaierror) as raised:
        address_of("n1", others=["n2"])
    assert raised.value is BUSY and not for_the_user(raised.value)


def test_the_signs_in_the_folders_that_are_written_to_go_with_the_check(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="a node"), signed([tmp_path / "a", tmp_path / "b"], 7) as signs:
        assert signs == [tmp_path / "a" / ".momu-7", tmp_path / "b" / ".momu-7"]
        assert all(sign.read_text() for sign in signs)
        raise ValueError("a node cannot take part")
    assert not list(tmp_path.glob("*/*"))


def test_how_ray_is_reached_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = job_folder(tmp_path, "7")
    folder.mkdir(parents=True)
    cluster, _ = cluster_of(folder, monkeypatch, "joined")
    cluster.write_address()
    found = read_ray("7")
    assert found and (found.head, found.address) == ("n1", cluster.address)
    assert (
        found.token_file == str(folder / "token")
        and found.dashboard == f"http://127.0.0.1:{plan(7).dashboard}"
    )
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    forget_secrets(folder)
    assert read_ray("7") is None


class Lives:
    """An agent that has not ended."""

    code = None


def cluster_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> tuple[RayCluster, list[float]]:
    """A cluster with one node that came to `state` and was heard just now, and the clock it goes by."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    allocation = Allocation(7, 0, ("n1",), (2,), "7")
    cluster = RayCluster(allocation, plan(7), tmp_path, str(tmp_path / "temp"), {})
    cluster.nodes["n1"] = Node("n1", Lives(), tmp_path / "n1.log", state, heard=clock[0])  # type: ignore[arg-type]
    return cluster, clock


def test_a_node_that_is_silent_is_lost_but_not_for_the_time_in_which_nobody_listened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`scontrol suspend` stops the launcher with its nodes."""
    cluster, clock = cluster_of(tmp_path, monkeypatch, "joined")
    clock[0] += 10
    assert cluster.lost() == []
    clock[0] += 3600  # suspended
    for _ in range(10):
        assert cluster.lost() == []
        clock[0] += SILENT_S / 12
    clock[0] += SILENT_S / 12
    (lost,) = cluster.lost()
    assert "said nothing for 60 s" in lost.failure()


def test_a_node_that_was_heard_while_the_launcher_waited_for_a_disk_is_lost_as_soon_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher's own wait is none of the time that a node may be silent afterwards."""
    cluster, clock = cluster_of(tmp_path, monkeypatch, "joined")
    clock[0] += 300
    cluster.nodes["n1"].heard = clock[0] - 1  # its last word: it died then
    assert cluster.lost() == []
    waited = 0.0
    while not cluster.lost():
        clock[0] += 1
        waited += 1
    assert waited == pytest.approx(SILENT_S, abs=2)


def test_the_time_that_nodes_have_to_come_up_stands_still_with_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passes() -> None:
        clock[0] += next(seconds, 1.0)

    cluster, clock = cluster_of(tmp_path, monkeypatch, "starting")
    seconds = iter([1.0, 3600.0])
    began = clock[0]
    with pytest.raises(NodeFailure, match="n1: not ready within 60 s"):
        cluster.wait_for("ready", passes)
    assert clock[0] - began == pytest.approx(3600 + CHECKS_S, abs=3)
