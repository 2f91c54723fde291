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


def test_the_sign_in_the_folder_that_is_written_to_goes_with_the_check(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a node"), signed(tmp_path, 7) as sign:
        assert sign == tmp_path / ".momu-7" and sign.is_file()
        raise ValueError("a node cannot take part")
    assert list(tmp_path.iterdir()) == []
    with signed(None, 7) as sign:
        assert sign is None
