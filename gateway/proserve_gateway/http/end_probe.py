"""Whether a client that will send nothing more still reads.

A client that closes and one that only shuts down its side (`nc`, some proxies and health checkers; HTTP/1.1 allows it)
send the same FIN. Most servers take both for gone (nginx as a proxy, Go, hyper, uvicorn, aiohttp), and such clients get
nothing. Serving both to the end would compute answers for nobody. But they differ when something is written: a socket
that was closed answers with a reset. So a little is written that says nothing: `100 Continue` before the answer, which
every client must be able to skip (RFC 9110, section 15.2), a comment inside a stream of events. The first finds out,
the second fails if there is nobody, and the engine is told 50 ms after the FIN.
"""

import asyncio
from collections.abc import Callable

FIRST_S = 0.02
"""What is answered sooner gets no more than its answer."""
SECOND_S = 0.03
GROWTH = 4.0
LONGEST_S = 2.0
"""Between two: who leaves later is found out then."""


class EndProbe:
    """Writes until it is stopped, or until nothing can be written any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Callable[[], bool]) -> None:
        """`write` says whether there is still something to wait for."""
        self._loop = loop
        self._write = write
        self._pause_s = SECOND_S
        self._timer = loop.call_later(FIRST_S, self._probe)

    def _probe(self) -> None:
        if self._write():
            self._timer = self._loop.call_later(self._pause_s, self._probe)
            self._pause_s = min(GROWTH * self._pause_s, LONGEST_S)

    def stop(self) -> None:
        """The connection is gone."""
        self._timer.cancel()
