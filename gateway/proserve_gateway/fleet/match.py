"""Finds own requests among the rows of an engine's snapshot, so that dead reckoning does not count them twice."""

from collections.abc import Mapping

from proserve_core.capacity import CapacitySnapshot
from proserve_core.routing import Dispatched
from proserve_core.routing.own_rows import own_id

COUNTED_AFTER_S = 1.0
"""A request sent this long before a snapshot is taken as counted by it even without a row of its own: it is beyond
the rows' limit, has ended there, or has an id that we cannot read. Without this such a request would weigh double
for as long as it lives."""


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
