"""Finds own requests among the rows of an engine's snapshot, so that dead reckoning does not count them twice.

The gateway sends its request id as `X-Request-Id`; vLLM (0.28 to 0.32) builds its internal ids around it:
`chatcmpl-<id>-<8 hex>`, `cmpl-<id>-<prompt index>-<8 hex>`, and with n > 1 `<sample>_` in front. The gateway's ids
hold no dash, so the part between the first two dashes is the id. Engines that use the id as it is are matched too.
"""

from collections.abc import Mapping

from proserve_core.capacity import CapacitySnapshot
from proserve_core.routing import Dispatched

COUNTED_AFTER_S = 1.0
"""A request sent this long before a snapshot is taken as counted by it even without a row of its own: it is beyond
the rows' limit, has ended there, or has an id that we cannot read. Without this such a request would weigh double
for as long as it lives."""


def own_id(row_id: str) -> str:
    """Gateway's request id in an engine's request id; the id itself where there is no dash."""
    parts = row_id.split("-", 2)
    return parts[1] if len(parts) > 1 else row_id


def mark_counted(dispatched: Mapping[str, Dispatched], snapshot: CapacitySnapshot, snapshot_s: float) -> None:
    """Set `in_snapshot` of the requests that the snapshot counts. Sticky: one seen once and gone has ended there."""
    unseen = {id_: entry for id_, entry in dispatched.items() if not entry.in_snapshot}
    if not unseen:
        return
    for row in snapshot.rows:
        entry = unseen.get(own_id(row.id))
        if entry is not None:
            entry.in_snapshot = True
    for entry in unseen.values():
        if entry.sent_s + COUNTED_AFTER_S < snapshot_s:
            entry.in_snapshot = True
