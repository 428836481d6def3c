"""What the HTTP ports have in common: how they listen, and what bounds their connections."""

import resource
import socket

KEEP_ALIVE_S = 75
"""Idle client connections; above what usual load balancers keep, so that they close first."""
BACKLOG = 2048
CLIENT_STALL_MS = 60_000
"""How long a client may take nothing of what was sent before the kernel cuts its connection."""
_SILENCE_S = 30
"""After which the kernel asks a client's whether it is still there, and again every third of that. A machine that is
gone says nothing; a request that is not streamed would run to its end for nobody."""
HEAD_BYTES = 65536
"""Of a request's line and headers."""
HEAD_S = 30.0
"""For a request's line and headers, from the connection or their first byte on."""
MOST_CONNECTIONS = 16_384
"""Open at a time, if the system lets the process have enough descriptors."""
_DESCRIPTORS_EACH = 3
"""Of HTTP, of its engine, of gRPC."""
_SPARE_DESCRIPTORS = 200
CLOSING_S = 2.0
"""For requests that were cut to notice it."""


def listen(host: str, port: int, *, stall_ms: int = CLIENT_STALL_MS) -> socket.socket:
    """A socket that is bound; port 0 picks a free one.

    Raises:
        OSError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Accepted connections inherit all of these.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE_S)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _SILENCE_S // 3)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Neither asyncio nor uvicorn ever gives a stalled client up.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
    return listening


def take_descriptors() -> None:
    """As many as connections may need, or the system allows: shells and service managers begin with 1,024, for the
    sake of programs that use `select`."""
    wanted = _DESCRIPTORS_EACH * MOST_CONNECTIONS + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def possible_connections() -> int:
    """What the limit on descriptors allows each port."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, (soft - _SPARE_DESCRIPTORS) // _DESCRIPTORS_EACH))
