"""An HTTP server in a thread of its own, for what a test lets others ask; on loopback, unless they are elsewhere."""

import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def local_server(
    handler: type[QuietHandler], *, host: str = LOOPBACK, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """`HOST:PORT` of a server that is there until the end."""
    with http.server.ThreadingHTTPServer((host, 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
