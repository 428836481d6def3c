"""Waiting for an engine under the rules of the request's class (`overload` of its PriorityClass).

A request that may not wait any longer is refused or goes on in the class that its own names. It is then served as one
of that class, but its account stays with the class that it came in: gain that it misses was promised there.
"""

from collections.abc import Callable

import msgspec

from proserve_core.admission.overload import degraded_to, needs_prospect, patience_s
from proserve_core.objectives import Overload
from proserve_core.routing import RoutingRequest
from proserve_gateway.fleet.lease import Lease
from proserve_gateway.fleet.overload_errors import OverloadedError
from proserve_gateway.fleet.pool_queue import PoolQueue
from proserve_gateway.requests.inference_request import InferenceRequest


async def wait_in_class(
    queue: PoolQueue,
    request: InferenceRequest,
    routing: RoutingRequest,
    *,
    clock: Callable[[], float],
    most_s: float,
) -> Lease:
    """Wait for an engine, in one class after another; `most_s` is the longest that any request may take.

    Raises:
        OverloadedError: it may not wait any longer.
        ApiError: see `PoolQueue.lease`.
    """
    served_as: set[str] = set()
    while True:
        name = routing.terms.priority_class
        served_as.add(name)
        overload = request.classes[name].overload if name in request.classes else Overload()
        try:
            return await queue.lease(
                routing,
                patience_s=patience_s(overload, age_s=clock() - request.arrival_s, most_s=most_s),
                needs_prospect=needs_prospect(overload),
                body_bytes=request.body.size,
            )
        except OverloadedError as error:
            to = degraded_to(overload, error.cause, served_as)
            if to is None:
                raise
            request.terms = request.classes[to].terms()
            routing = msgspec.structs.replace(routing, terms=request.terms)
            queue.degraded(name, to)
