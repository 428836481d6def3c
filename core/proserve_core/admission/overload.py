"""What happens to a request that waits and can't be served as its class promises (ROUTING, section 4).

`Queue` lets it wait, at most `maxQueueTime` from its arrival, even when it can bring no gain any more: then it gets an
engine that has nothing better to do. `Shed` refuses it as soon as it can't be expected to bring gain: when its turn
comes, after those who bring more per second, all its tokens would be late beyond repair. So it waits no longer than
waiting can be of use. `Degrade` makes it a request of another class at that moment, or after `maxQueueTime`; it keeps
its arrival, and the rules of that class hold.
"""

from collections.abc import Collection
from enum import StrEnum

from proserve_core.objectives import Overload, OverloadAction


class Refusal(StrEnum):
    """Why a waiting request was refused. Closed list, used as a metric label."""

    QUEUE_TIME = "queue_time"
    """It waited as long as its class lets it."""
    NO_GAIN = "no_gain"
    """It can't be expected to bring gain any more."""
    ROOM_FULL = "room_full"
    """More wait than the gateway holds, and it brings least."""


def needs_prospect(overload: Overload) -> bool:
    """Whether a request waits only for as long as it can be expected to bring gain."""
    return overload.action is not OverloadAction.QUEUE


def patience_s(overload: Overload, *, age_s: float, most_s: float) -> float:
    """How much longer a request that arrived `age_s` ago may wait; no request may take more than `most_s` in all."""
    longest_s = most_s if overload.max_queue_time_s is None else min(most_s, overload.max_queue_time_s)
    return max(0.0, longest_s - age_s)


def degraded_to(overload: Overload, refusal: Refusal, served_as: Collection[str]) -> str | None:
    """The class that a request goes on in, which was served as `served_as` so far; None: it is refused.

    Where the gateway can't hold it, another class does not help. No class twice: two may name each other.
    """
    if overload.action is not OverloadAction.DEGRADE or refusal is Refusal.ROOM_FULL:
        return None
    return None if overload.degrade_to in served_as else overload.degrade_to
