"""Equal parts for equal tenants: which tenant of a class is next where several of one class wait.

Source: Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2):
tokens given to each tenant are counted, and the tenant with the fewest is next (`turns`). Deviations: tokens are
counted when a request goes to an engine, by its prompt and the output that is expected of it; and counters are within a
class. How much a class gets is decided by gain: its places in the order stay where they are, and its tenants
take turns in them; who takes a place takes its gain density as well, or an engine that ranks would put the others in
front again. Within a tenant the order stays as well.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from proserve_core.admission.turns import Turns
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
        self._turns: dict[str, Turns] = {}
        """Of the tenants, by class."""

    def arrived(self, request: TenantRequest) -> None:
        """The request waits."""
        self._turns.setdefault(request.terms.priority_class, Turns()).arrived(request.tenant)

    def left(self, request: TenantRequest) -> None:
        """It does not wait any more."""
        turns = self._turns[request.terms.priority_class]
        turns.left(request.tenant)
        if not turns:
            del self._turns[request.terms.priority_class]

    def sent(self, request: TenantRequest) -> None:
        """It goes to an engine; `left` follows."""
        self._turns[request.terms.priority_class].gave(request.tenant, tokens_of(request))

    @property
    def shared(self) -> bool:
        """Whether several tenants of one class wait."""
        return any(len(turns) > 1 for turns in self._turns.values())

    def next(self, priority_class: str) -> str:
        """The tenant whose turn it is in a class; somebody of it must wait."""
        return self._turns[priority_class].next()

    def in_turn(self, requests: Sequence[R]) -> Iterator[tuple[R, R]]:
        """The requests, all of which wait: whose place it is, and who takes it."""
        shared = {name for name, turns in self._turns.items() if len(turns) > 1}
        lines: dict[str, dict[str, deque[R]]] = {name: {} for name in shared}
        for request in requests:
            if (tenants := lines.get(request.terms.priority_class)) is not None:
                tenants.setdefault(request.tenant, deque()).append(request)
        taken = {name: self._turns[name].served() for name in shared}
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
            counts[tenant] += tokens_of(chosen)
            yield request, chosen


def tokens_of(request: TenantRequest) -> float:
    """What a request takes of its tenant's part."""
    return request.prompt_tokens + request.expected_output_tokens
