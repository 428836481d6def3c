"""Requests to engines as dispatch makes them: leased, identified, watched, refusals turned into errors."""

from collections.abc import Callable

from proserve_gateway.fleet.lease import Lease
from proserve_gateway.requests.dispatch_errors import refusal
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.upstream.client import UpstreamClient, request_head
from proserve_gateway.upstream.exchange import Exchange

MAX_REPLY_BYTES = 64 * 2**20
"""Of a reply that is not streamed."""


class EngineCalls:
    """Sends parts of requests to the engines that were chosen for them."""

    def __init__(self, *, upstream: UpstreamClient, clock: Callable[[], float]) -> None:
        self._upstream = upstream
        self._clock = clock
        self.total_s = upstream.total_s
        """Most that a request may take from its arrival."""

    async def post(self, request: InferenceRequest, lease: Lease, path: str, data: Callable[[], bytes]) -> Exchange:
        """Send what `data` makes (`UpstreamClient.request`); the answer's headers are there and its status is 200.
        While the exchange is open, it is given up when the engine is lost.

        Raises:
            UpstreamError: the exchange failed.
            ApiError: the engine answered with an error status.
        """
        endpoint = lease.endpoint
        head = b"%sx-request-id: %s\r\n" % (request_head(endpoint, "POST", path), request.id.encode())
        if request.trace is not None:
            head += request.trace.head()
        exchange = await self._upstream.request(
            endpoint, head, data, age_s=self._clock() - request.arrival_s, on_start=lease.watch
        )
        if exchange.status != 200:
            try:
                body = await exchange.read_all(MAX_REPLY_BYTES)
            except BaseException:
                exchange.abort()
                raise
            raise refusal(endpoint.name, exchange.status, exchange.headers, body)
        return exchange


def is_stream(exchange: Exchange) -> bool:
    return (exchange.header(b"content-type") or b"").startswith(b"text/event-stream")
