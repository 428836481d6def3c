"""Bytes of all request bodies that a gateway holds, those that arrive included, and who may add to them.

Without a bound a tenant with long prompts ends the process and with it everybody's streams. A tenant may hold as much
as is free beside that: half of all when it is alone, and however much it sends, others find room (the dynamic
thresholds of shared-memory switches: Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998, with alpha = 1).
"""

from collections import Counter
from types import TracebackType

from proserve_gateway.errors import ApiError

MOST_BYTES = 512 * 2**20
"""A body is kept once, and three times while it is sent on; beside this and what streams hold there is room in 1 GiB,
the memory that the chart gives a gateway."""


class BodyBudget:
    """Of one gateway."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._free = most_bytes
        self._held: Counter[str] = Counter()

    def hold(self, tenant: str, size: int) -> "HeldBody":
        """Room for one more body of this tenant.

        Raises:
            ApiError: 429, the tenant holds too much.
        """
        held = self._held[tenant]
        if held + size > self._free:
            raise ApiError(
                status=429,
                code="overloaded",
                error_type="requests",
                message=f"the bodies of tenant {tenant}'s requests under way have {held} bytes, and this one of {size} "
                "is more than this gateway has room for now: try again when some have ended, or send shorter prompts",
                retry_after_s=1.0,
            )
        self.add(tenant, size)
        return HeldBody(self, tenant, size)

    def add(self, tenant: str, size: int) -> None:
        """The tenant holds `size` bytes more, or less (`HeldBody`)."""
        self._free -= size
        self._held[tenant] += size
        if not self._held[tenant]:
            del self._held[tenant]


class HeldBody:
    """Room for one body until the end of a `with`."""

    __slots__ = ("_budget", "_size", "_tenant")

    def __init__(self, budget: BodyBudget, tenant: str, size: int) -> None:
        self._budget = budget
        self._tenant = tenant
        self._size = size

    def shrink(self, size: int) -> None:
        """It turned out to have no more than this."""
        self._budget.add(self._tenant, size - self._size)
        self._size = size

    def __enter__(self) -> "HeldBody":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._budget.add(self._tenant, -self._size)
