"""Writes statuses by server-side apply, and only when they say something new.

Conditions and counts are written at once, figures of gain at most every `status_s` seconds: under load they change all
the time, and every write is an event for everybody who watches.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from proserve_operator.conditions import Condition, written
from proserve_operator.events import Events
from proserve_operator.figures import FIGURES
from proserve_operator.kube_client import Kube, KubeError
from proserve_operator.names import STATUS_MANAGER
from proserve_operator.pool_status import Observed, conditions, counts
from proserve_operator.store import Key, Object, Store, key_of

FAILURES_TOLD = 5
"""Failures in a row after which people are told of what may go well later: 8 s with the queue's pauses."""

Figures = Mapping[str, Any]
"""Fields of a status about gain."""


class StatusWriter:
    """Statuses of all kinds."""

    def __init__(
        self,
        *,
        kube: Kube,
        store: Store,
        events: Events,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        status_s: float,
    ) -> None:
        self._kube = kube
        self._store = store
        self._events = events
        self._clock = clock
        self._wall_clock = wall_clock
        self._status_s = status_s
        self._figures_s: dict[tuple[str, Key], float] = {}
        """When figures of an object were last written."""
        self._failures: dict[tuple[str, Key], int] = {}
        """Statuses in a row that could not be made or written."""

    def forget(self, kind: str, key: Key) -> None:
        """The object is gone."""
        self._figures_s.pop((kind, key), None)
        self._failures.pop((kind, key), None)

    async def write_pool(self, body: Object, observed: Observed, figures: Figures, *, generation: int) -> float | None:
        """The status of an EnginePool; see `write`."""
        rows = conditions(observed)
        return await self.write("EnginePool", body, rows, counts(observed), figures, generation=generation)

    async def write(
        self,
        kind: str,
        body: Object,
        rows: list[Condition],
        fields: Mapping[str, Any],
        figures: Figures,
        *,
        generation: int,
    ) -> float | None:
        """Write the status if it is new; seconds after which figures may be written that were held back.

        `generation` is that of the resource that was judged and acted on: `body` may be a later one.

        Raises:
            KubeError: the API server refused it.
        """
        key, previous = key_of(body), body.get("status", {})
        now = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fresh = {
            "observedGeneration": generation,
            "conditions": written(rows, previous=previous, generation=generation, now=now),
            **fields,
        }
        old_figures = {name: previous[name] for name in FIGURES if name in previous}
        wait_s = self._figures_s.get((kind, key), float("-inf")) + self._status_s - self._clock()
        settled = {name: value for name, value in previous.items() if name not in old_figures}
        if fresh == settled and (dict(figures) == old_figures or wait_s > 0):
            self._failures.pop((kind, key), None)
            return wait_s if dict(figures) != old_figures else None
        metadata = {"name": key[1]} | ({"namespace": key[0]} if key[0] else {})
        made = {"apiVersion": body["apiVersion"], "kind": kind, "metadata": metadata, "status": {**fresh, **figures}}
        asked = self._store.get(kind, key)
        try:
            applied = await self._kube.apply(made, manager=STATUS_MANAGER, subresource="status")
        except KubeError as error:
            await self.failed(kind, body, error)
            raise
        self._failures.pop((kind, key), None)
        self._figures_s[kind, key] = self._clock()
        self._store.put_reply(kind, applied, asked=asked)
        await self._events.changed_conditions(applied, previous)
        return None

    async def failed(self, kind: str, body: Object, error: KubeError) -> None:
        """A status that stays as it is says what was so some time ago, so an event tells of it if that lasts."""
        failures = self._failures[kind, key_of(body)] = self._failures.get((kind, key_of(body)), 0) + 1
        if failures >= FAILURES_TOLD and error.status != 404:
            await self._events.say(body, "StatusNotWritten", str(error), action="Status", warning=True)
