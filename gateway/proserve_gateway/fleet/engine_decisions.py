"""What an engine decided about a request, asked on behalf of people who don't reach it and don't know its key."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from proserve_gateway.errors import ApiError, engine_failure
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.upstream.client import UpstreamClient, request_head
from proserve_gateway.upstream.exchange import UpstreamError

ANSWER_S = 5.0
MAX_ANSWER_BYTES = 4 * 2**20

EngineDecisions = Callable[[str, str], Awaitable[tuple[int, bytes]]]
"""Status and body of an engine's answer, by its name and the id of a request. Raises ApiError."""


def engine_decisions(fleet: Fleet, upstream: UpstreamClient) -> EngineDecisions:
    """Asks the engines of this fleet."""

    async def ask(name: str, request_id: str) -> tuple[int, bytes]:
        engine = next((each for each in fleet.engines if each.target.name == name), None)
        endpoint = None if engine is None else engine.target.capacity_endpoint()
        if endpoint is None:
            raise ApiError(
                status=404,
                code="engine_not_found",
                error_type="invalid_request_error",
                message=f"there is no engine {name[:80]!r} with a capacity server: see /status for the engines",
            )
        # Not through the cache of routes.
        head = request_head.__wrapped__(endpoint, "GET", f"/explain/{quote(request_id, safe='')}")
        try:
            async with asyncio.timeout(ANSWER_S):
                exchange = await upstream.request(endpoint, head)
                try:
                    return exchange.status, await exchange.read_all(MAX_ANSWER_BYTES)
                finally:
                    exchange.abort()
        except (UpstreamError, TimeoutError) as error:
            reason = str(error) or f"no answer within {ANSWER_S:g} s"
            raise engine_failure(f"engine {name} does not say: {reason}") from error

    return ask
