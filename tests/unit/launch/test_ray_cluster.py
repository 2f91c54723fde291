"""What the launcher knows of its nodes."""

from __future__ import annotations

import socket

import pytest

from momu_dist.errors import ConfigError
from momu_dist.launch.ray_cluster import address_of


def test_names_without_an_ipv4_address_are_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise socket.gaierror("Address family for hostname not supported")

    monkeypatch.setattr(socket, "gethostbyname", fails)
    monkeypatch.setattr(socket.socket, "connect", fails)
    with pytest.raises(ConfigError, match="no IPv4 address of n1 .* must mean IPv4 addresses"):
        address_of("n1", others=["n2"])
    assert address_of("n1", others=[]) == "127.0.0.1"
