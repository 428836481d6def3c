"""Events for what a person should know: a condition that changed. Never one per request, and never a flood.

Each object may cause a few at once and then one a minute; the same words about the same object come at most every ten
minutes. An event that can't be written is not worth a retry: the condition says the same.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from proserve_core.resources.conditions import Reason
from proserve_operator.kube_client import Kube, KubeError
from proserve_operator.store import Key, key_of

logger = logging.getLogger(__name__)

COMPONENT = "proserve.dev/operator"
BURST = 5.0
PER_S = 1 / 60
SAME_S = 600.0
_EXPECTED = (Reason.FIXED, Reason.NO_ENGINES, Reason.ENGINES_STARTING)
"""Reasons of a condition that is False without anything being wrong."""
_UNTOLD = ("Complete",)
"""Conditions that change only when another one tells the same."""
KEPT = 4096
"""Objects and words that are remembered."""


class Events:
    """Writes events."""

    def __init__(
        self, kube: Kube, *, identity: str, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self._kube = kube
        self._identity = identity
        self._clock = clock
        self._wall_clock = wall_clock
        self._budgets: OrderedDict[tuple[str, Key], tuple[float, float]] = OrderedDict()
        self._said: OrderedDict[tuple[str, Key, str, str], float] = OrderedDict()

    async def changed_conditions(self, body: Mapping[str, Any], previous: Mapping[str, Any]) -> None:
        """One event for each condition that has another status or reason than before. Of a new resource only what is
        wrong is worth one."""
        before = {each["type"]: (each["status"], each["reason"]) for each in previous.get("conditions", ())}
        for each in body.get("status", {}).get("conditions", ()):
            if each["type"] in _UNTOLD:
                continue
            bad = each["status"] == "False" and each["reason"] not in _EXPECTED
            known = before.get(each["type"])
            if known != (each["status"], each["reason"]) and (bad or known is not None):
                await self.say(body, each["reason"], each["message"], action=each["type"], warning=bad)

    async def say(self, body: Mapping[str, Any], reason: str, message: str, *, action: str, warning: bool) -> None:
        """Write an event about an object, unless there were too many."""
        key = key_of(body)
        if not self._may(body["kind"], key, reason, message):
            return
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        namespace = key[0] or "default"
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{key[1][:50]}-", "namespace": namespace},
            "eventTime": now,
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": action,
            "note": message[:1000],
            "reportingController": COMPONENT,
            "reportingInstance": self._identity or "operator",
            "regarding": {
                "apiVersion": body["apiVersion"],
                "kind": body["kind"],
                "name": key[1],
                "namespace": key[0],
                "uid": body["metadata"]["uid"],
            },
        }
        try:
            await self._kube.create(event)
        except KubeError as error:
            logger.warning("an event about %s %s was not written: %s", body["kind"], key[1], error)

    def _may(self, kind: str, key: Key, reason: str, message: str) -> bool:
        now_s = self._clock()
        same = (kind, key, reason, message)
        if self._said.get(same, float("-inf")) > now_s - SAME_S:
            return False
        left, at_s = self._budgets.get((kind, key), (BURST, now_s))
        left = min(left + (now_s - at_s) * PER_S, BURST)
        if left < 1:
            return False
        self._budgets[kind, key] = (left - 1, now_s)
        self._said[same] = now_s
        for remembered in (self._budgets, self._said):
            while len(remembered) > KEPT:
                remembered.popitem(last=False)
        return True
