"""What the launcher knows of its nodes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from momu_dist.errors import ConfigError
from momu_dist.launch.ray_cluster import address_of, signed


def test_names_without_an_ipv4_address_are_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise socket.gaierror("Address family for hostname not supported")

    monkeypatch.setattr(socket, "gethostbyname", fails)
    monkeypatch.setattr(socket.socket, "connect", fails)
    with pytest.raises(ConfigError, match="no IPv4 address of n1 .* must mean IPv4 addresses"):
        address_of("n1", others=["n2"])
    assert address_of("n1", others=[]) == "127.0.0.1"


def test_the_signs_in_the_folders_that_are_written_to_go_with_the_check(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="a node"), signed([tmp_path / "a", tmp_path / "b"], 7) as signs:
        assert signs == [tmp_path / "a" / ".momu-7", tmp_path / "b" / ".momu-7"]
        assert all(sign.read_text() for sign in signs)
        raise ValueError("a node cannot take part")
    assert not list(tmp_path.glob("*/*"))
