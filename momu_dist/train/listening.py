"""Whether a server could listen at an address of this machine, known by doing it. No torch."""

from __future__ import annotations

import socket


def try_listening(host: str, port: int) -> None:
    """Listen for a moment as servers do; raises OSError where that cannot be, with EADDRINUSE where somebody does."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        # What a connection that has ended leaves behind for a minute is no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
