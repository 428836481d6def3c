"""Accepts connections that speak TLS, so that each is known from its first packet on.

asyncio tells a protocol of a TLS connection only when its handshake is done, and `create_server` gives no way to the
ones before that. Whoever opens connections and sends nothing would be bounded by descriptors alone.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from proserve_gateway.background import Background
from proserve_gateway.http.connection import HttpConnection

logger = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
"""From the connection to the end of its handshake."""
_FULL_S = 1.0
"""Until it is tried again after the system gave no connection, as asyncio does: it is out of descriptors or memory."""


class TlsListener:
    """Accepts from its creation on until `close`. Owns the socket."""

    def __init__(
        self, listening: socket.socket, tls: ssl.SSLContext, make: Callable[[], HttpConnection], background: Background
    ) -> None:
        """`make`: the protocol of a new connection."""
        listening.setblocking(False)
        self._listening = listening
        self._tls = tls
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._accepting = background.run("TLS listener", self._accept)
        self._accepting.add_done_callback(lambda _: listening.close())

    def close(self) -> None:
        """Accept no more."""
        self._accepting.cancel()

    async def _accept(self) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._listening)
            except ConnectionError:
                continue  # It left before it was accepted.
            except OSError as error:
                logger.error("no connection can be accepted: %s", error)
                await asyncio.sleep(_FULL_S)
                continue
            self._begin(accepted)

    def _begin(self, accepted: socket.socket) -> None:
        connection = self._make()
        handshake = self._loop.create_task(self._handshake(connection, accepted))
        handshake.add_done_callback(lambda task: _ended(task, connection, accepted))
        connection.encrypts(handshake)

    async def _handshake(self, connection: HttpConnection, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(
            lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S
        )


def _ended(handshake: asyncio.Task[None], connection: HttpConnection, accepted: socket.socket) -> None:
    """On success transport and protocol have all that is needed."""
    error = None if handshake.cancelled() else handshake.exception()
    if not handshake.cancelled() and error is None:
        return
    accepted.close()
    connection.never_encrypted()
    if isinstance(error, OSError):
        logger.debug("a client's TLS handshake failed: %s", error)
    elif error is not None:
        raise error
