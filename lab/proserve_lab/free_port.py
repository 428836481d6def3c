"""Ports for processes that can't be handed a socket.

A port that was merely looked for may be somebody else's when the process binds it, seconds later: of all programs that
let the system choose one. A connection that was closed keeps it from them for a minute (TIME_WAIT), and not from a
server that names it, as all that we start set SO_REUSEADDR. The idea is that of Yelp's ephemeral-port-reserve.
"""

import socket


def free_port() -> int:
    """A loopback port that nobody has, and that the system gives to nobody for a minute."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        # Who closes first is the one that waits.
        accepted.close()
        client.recv(1)
        return int(server.getsockname()[1])
