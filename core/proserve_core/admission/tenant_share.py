"""Equal parts for equal tenants: which tenant of a class is next where several of one class wait.

Source: Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2):
tokens given to each tenant are counted, and the tenant with the fewest is next. A tenant that comes back after a time
without requests starts at the least count of those that wait, so being idle gains no credit. Deviations: tokens are
counted when a request goes to an engine, by its prompt and the output that is expected of it; and counters are within a
class. How much a class gets is decided by gain: its places in the order stay where they are, and its tenants
take turns in them; who takes a place takes its gain density as well, or an engine that ranks would put the others in
front again. Within a tenant the order stays as well.

Memory: one counter for each tenant and class that has taken more than the least of those that wait.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from proserve_core.objectives import ServiceTerms


class TenantRequest(Protocol):
    """What must be known of a request."""

    @property
    def tenant(self) -> str: ...

    @property
    def terms(self) -> ServiceTerms: ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def expected_output_tokens(self) -> float: ...


R = TypeVar("R", bound=TenantRequest)


class TenantShare:
    """Turns of the tenants in one pool."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, int]] = {}
        """Requests by class and tenant."""
        self._served: dict[str, dict[str, float]] = {}
        """Tokens by class and tenant."""

    def arrived(self, request: TenantRequest) -> None:
        """The request waits."""
        waiting = self._waiting.setdefault(request.terms.priority_class, {})
        if request.tenant not in waiting:
            served = self._served.setdefault(request.terms.priority_class, {})
            floor = min([served.get(tenant, 0.0) for tenant in waiting], default=0.0)
            served[request.tenant] = max(served.get(request.tenant, 0.0), floor)
            self._forget(served, waiting, floor)
        waiting[request.tenant] = waiting.get(request.tenant, 0) + 1

    def left(self, request: TenantRequest) -> None:
        """It does not wait any more."""
        priority_class = request.terms.priority_class
        waiting = self._waiting[priority_class]
        waiting[request.tenant] -= 1
        if not waiting[request.tenant]:
            del waiting[request.tenant]
        if not waiting:
            # Nobody waited in vain, so nobody is owed anything.
            del self._waiting[priority_class], self._served[priority_class]

    def sent(self, request: TenantRequest) -> None:
        """It goes to an engine; `left` follows."""
        self._served[request.terms.priority_class][request.tenant] += _tokens(request)

    @property
    def shared(self) -> bool:
        """Whether several tenants of one class wait."""
        return any(len(tenants) > 1 for tenants in self._waiting.values())

    def in_turn(self, requests: Sequence[R]) -> Iterator[tuple[R, R]]:
        """The requests, all of which wait: whose place it is, and who takes it."""
        shared = {name for name, tenants in self._waiting.items() if len(tenants) > 1}
        lines: dict[str, dict[str, deque[R]]] = {name: {} for name in shared}
        for request in requests:
            if (tenants := lines.get(request.terms.priority_class)) is not None:
                tenants.setdefault(request.tenant, deque()).append(request)
        taken = {name: dict(self._served[name]) for name in shared}
        for request in requests:
            priority_class = request.terms.priority_class
            if priority_class not in shared:
                yield request, request
                continue
            tenants, counts = lines[priority_class], taken[priority_class]
            tenant = min(tenants, key=lambda name: (counts[name], name))
            chosen = tenants[tenant].popleft()
            if not tenants[tenant]:
                del tenants[tenant]
            counts[tenant] += _tokens(chosen)
            yield request, chosen

    @staticmethod
    def _forget(served: dict[str, float], waiting: dict[str, int], floor: float) -> None:
        """Who has no more than the floor would start there in any case."""
        for tenant in [name for name, tokens in served.items() if tokens < floor and name not in waiting]:
            del served[tenant]


def _tokens(request: TenantRequest) -> float:
    return request.prompt_tokens + request.expected_output_tokens
