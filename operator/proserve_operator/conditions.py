"""Conditions of a status: made anew each time, with the time of the last change kept."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from proserve_core.resources.conditions import Reason

LONGEST_MESSAGE = 1024


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition as it is now."""

    type: str
    status: bool | None
    """None: unknown."""
    reason: Reason
    message: str

    @property
    def status_text(self) -> str:
        return "Unknown" if self.status is None else str(self.status)


def written(
    conditions: Iterable[Condition], *, previous: Mapping[str, Any], generation: int, now: str
) -> list[dict[str, Any]]:
    """As in a status; `previous` is the status before, `now` the time in the form of Kubernetes."""
    before = {each["type"]: each for each in previous.get("conditions", ())}
    rows = []
    for condition in conditions:
        known = before.get(condition.type, {})
        changed = known.get("status") != condition.status_text
        rows.append(
            {
                "type": condition.type,
                "status": condition.status_text,
                "observedGeneration": generation,
                "lastTransitionTime": now if changed else known["lastTransitionTime"],
                "reason": str(condition.reason),
                "message": shortened(condition.message),
            }
        )
    return rows


def told(condition: Condition, status: Mapping[str, Any]) -> bool:
    """Whether the status has the condition with this status and reason."""
    row = (condition.type, condition.status_text, condition.reason)
    return any((each["type"], each["status"], each["reason"]) == row for each in status.get("conditions", ()))


def false_for_s(name: str, status: Mapping[str, Any], *, now_s: float) -> float:
    """How long a status has said that this condition does not hold; 0 if it says otherwise. `now_s` is wall-clock time.

    It stands in the cluster, so it outlives the operator's process."""
    for row in status.get("conditions", ()):
        if row["type"] == name and row["status"] == "False":
            return max(0.0, now_s - datetime.fromisoformat(row["lastTransitionTime"]).timestamp())
    return 0.0


def shortened(message: str) -> str:
    """At most as long as a status may hold."""
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"
