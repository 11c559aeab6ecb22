"""The guard in conftest holds."""

from __future__ import annotations

import socket

import pytest


def test_the_network_is_out_of_reach() -> None:
    with pytest.raises(AssertionError, match=r"tried to look up example\.org"):
        socket.create_connection(("example.org", 80), timeout=1)
    with socket.socket() as client, pytest.raises(AssertionError, match=r"tried to reach"):
        client.connect(("192.0.2.1", 80))


def test_the_loopback_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
