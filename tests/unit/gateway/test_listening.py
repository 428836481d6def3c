"""What the sockets of the HTTP ports notice by themselves, and how many there may be."""

import resource
import socket

from proserve_gateway.http.listening import MOST_CONNECTIONS, listen, possible_connections, take_descriptors


def test_silent_clients_are_asked_whether_they_are_still_there() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


def test_a_low_limit_of_the_shell_does_not_bound_connections_but_the_systems_does() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = min(MOST_CONNECTIONS, (before[1] - 200) // 3)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (800, before[1]))
        assert possible_connections() == 200
        take_descriptors()
        assert possible_connections() == possible
        take_descriptors()
        assert possible_connections() == possible
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
