"""`static-partition`: each class has engines of its own.

Source: what operators do without priorities, one deployment per class; the baseline of ProServe's motivation. Engines
in order of name are cut into equal parts, one per class seen so far, the heaviest class first; with fewer engines than
classes the lightest ones share the last. Within its part a request goes where the fewest requests are. No part lends
what it does not use.
"""

from proserve_core.routing.least_requests import request_count
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class StaticPartition:
    """Fewest requests among the engines of the request's class."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        terms = request.terms
        self._weights[terms.priority_class] = terms.weight
        classes = sorted(self._weights, key=lambda name: (-self._weights[name], name))
        place, parts = classes.index(terms.priority_class), min(len(classes), len(fleet.engines))
        place = min(place, parts - 1)
        engines = sorted(fleet.engines, key=lambda view: view.name)
        own = engines[place * len(engines) // parts : (place + 1) * len(engines) // parts]
        return RouteDecision(
            engine=min(own, key=request_count).name,
            reason="fewest requests among the engines of the class",
            candidates=tuple([view.name for view in own]),
        )
