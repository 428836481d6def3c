"""Ports for processes that can't be handed a socket."""

import socket

from proserve_lab.free_port import free_port


def test_port_is_for_a_server_that_names_it_and_is_given_to_nobody_else() -> None:
    kept = free_port()
    others = {free_port() for _ in range(250)}
    for _ in range(250):
        with socket.create_server(("127.0.0.1", 0)) as server:
            others.add(server.getsockname()[1])
    assert kept not in others
    socket.create_server(("127.0.0.1", kept)).close()


def test_ports_of_a_minute_are_all_different() -> None:
    assert len({free_port() for _ in range(500)}) == 500
