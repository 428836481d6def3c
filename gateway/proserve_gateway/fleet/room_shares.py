"""What each tenant holds of a waiting room's limits, and who has to give way when it is full.

Gain decides which class loses a place. Within the class it is the tenant that holds most, by its part of whichever
limit it fills more: as long as others hold more, a tenant keeps all that it has there (max-min fair), so a flood pushes
out only itself.
"""

import msgspec


class WaitingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Most that one pool may have waiting: with it the memory of a gateway in any overload is bounded."""

    requests: int = 4096
    """Each holds a connection, a task and its body: some 40 kB."""
    body_bytes: int = 128 * 2**20
    """Of all bodies."""


class _Holding:
    __slots__ = ("body_bytes", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.body_bytes = 0


class RoomShares:
    """Requests that wait and their bodies, by class and tenant."""

    def __init__(self, limits: WaitingLimits) -> None:
        self._limits = limits
        self._total = _Holding()
        self._holdings: dict[str, dict[str, _Holding]] = {}

    @property
    def full(self) -> bool:
        """Whether more wait than may."""
        return self._total.requests > self._limits.requests or self._total.body_bytes > self._limits.body_bytes

    def entered(self, priority_class: str, tenant: str, body_bytes: int) -> None:
        """A request waits."""
        holding = self._holdings.setdefault(priority_class, {}).setdefault(tenant, _Holding())
        for each in (self._total, holding):
            each.requests += 1
            each.body_bytes += body_bytes

    def left(self, priority_class: str, tenant: str, body_bytes: int) -> None:
        """It does not wait any more."""
        tenants = self._holdings[priority_class]
        for each in (self._total, tenants[tenant]):
            each.requests -= 1
            each.body_bytes -= body_bytes
        if not tenants[tenant].requests:
            del tenants[tenant]
        if not tenants:
            del self._holdings[priority_class]

    def gives_way(self, priority_class: str, weakest: str) -> str:
        """The tenant that loses a request of this class; the `weakest` request is of this tenant, which pays if nobody
        holds more."""
        tenants = self._holdings[priority_class]
        most = max(tenants, key=lambda name: self._part(tenants[name]))
        return most if self._part(tenants[most]) > self._part(tenants[weakest]) else weakest

    def _part(self, holding: _Holding) -> float:
        return max(holding.requests / self._limits.requests, holding.body_bytes / self._limits.body_bytes)
