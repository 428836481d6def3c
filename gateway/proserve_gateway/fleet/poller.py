"""Keeps the fleet's picture of its engines fresh: one long poll per engine (ARCHITECTURE, engine to gateway).

`GET /capacity?after=SEQ&wait=MS` answers as soon as something changed, so an idle engine costs two requests a second
and a busy one is followed closely. Polls of all engines together are held to `polls_per_s`, because dead reckoning
makes a little staleness nearly free while polling costs the core that carries the streams. An engine without the
endpoint is read through its Prometheus metrics (`proserve_core.engine_metrics`); one without those is asked for its
models, which says that it lives and no more.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from enum import StrEnum

import msgspec

from proserve_core.capacity import CapacityError, CapacitySnapshot, decode_snapshot
from proserve_core.engine_metrics import EngineReading, read_metrics
from proserve_gateway.fleet.engine import Engine
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.target import Endpoint
from proserve_gateway.security.tls import EngineTls
from proserve_gateway.upstream.client import UpstreamClient, request_head
from proserve_gateway.upstream.exchange import FailureKind, UpstreamError

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 4 * 1024 * 1024
_VLLM = re.compile(rb'"owned_by":\s*"vllm"')
"""In vLLM's list of models."""
NOT_THERE = frozenset({404, 405, 501})
"""Statuses that say that a server has no such endpoint."""
REFUSED = frozenset({401, 403})
"""Statuses that say that the key is wrong."""


class PollResult(StrEnum):
    """What a poll found. Closed list, used as a metric label."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    """The long poll's wait ended."""
    MEASURED = "measured"
    """The engine's Prometheus metrics were read."""
    PROBED = "probed"
    """The engine lives and says nothing of its load."""
    MISSED = "missed"


class PollSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times of the poller."""

    wait_s: float = 0.5
    """How long an engine may hold a poll when nothing changes."""
    answer_s: float = 3.0
    """How long an answer may take beyond that. Generous: an engine on busy CPUs is slow, not gone; one whose process
    ended refuses the connection and is noticed at once."""
    retry_s: float = 0.1
    """Pause after a missed poll."""
    probe_s: float = 2.0
    """Between probes of an engine without capacity."""
    metrics_s: float = 0.2
    """Between two readings of an engine's metrics: an engine renders tens of kilobytes for each."""
    metrics_per_s: float = 200.0
    """Most readings of all engines together."""
    recheck_s: float = 30.0
    """Between looks whether such an engine has capacity or metrics by now."""
    closest_s: float = 0.02
    """Shortest time between two polls of one engine."""
    polls_per_s: float = 1000.0
    """Most polls of all engines together."""


class MissedPollError(Exception):
    """A poll failed; the message says how."""


class Poller:
    """Polls all engines of a fleet until `run` is cancelled."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        settings: PollSettings | None = None,
        tls: EngineTls | None = None,
        on_poll: Callable[[str, PollResult], None] | None = None,
    ) -> None:
        """`on_poll(engine, result)` is told each poll."""
        self._fleet = fleet
        self._settings = settings or PollSettings()
        self._tls = tls
        self._on_poll = on_poll
        self._changed = asyncio.Event()
        fleet.on_targets(self._changed.set)

    async def run(self) -> None:
        """Follow the fleet's engines as they come and go."""
        client = UpstreamClient(tls=self._tls)
        followers: dict[Engine, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._changed.clear()
                    engines = set(self._fleet.engines)
                    for gone in followers.keys() - engines:
                        followers.pop(gone).cancel()
                    for engine in engines - followers.keys():
                        followers[engine] = group.create_task(self._follow(client, engine))
                    await self._changed.wait()
        finally:
            client.close()

    async def _follow(self, client: UpstreamClient, engine: Engine) -> None:
        follower = _Follower(client, engine, self._settings)
        clock = asyncio.get_running_loop().time
        state = engine.health.state(clock())
        while True:
            began_s = clock()
            try:
                result, pause_s = self._take(engine, follower, await follower.poll(began_s))
                pause_s += began_s - clock()
            except Exception as error:  # whatever one engine says must not end the polls of all others
                if not isinstance(error, MissedPollError) and engine.last_error != str(error):
                    log.exception("engine %s: a fault of the gateway with what it answered", engine.target.name)
                self._fleet.poll_missed(engine, str(error))
                result, pause_s = PollResult.MISSED, self._settings.retry_s
            if self._on_poll is not None:
                self._on_poll(engine.target.name, result)
            # Against the last poll's end: requests that fail change the state between polls too.
            before, state = state, engine.health.state(clock())
            if state is not before:
                log.info("engine %s: %s -> %s %s", engine.target.name, before, state, engine.last_error)
            await asyncio.sleep(max(pause_s, 0.0))

    def _take(
        self, engine: Engine, follower: "_Follower", found: CapacitySnapshot | EngineReading | None
    ) -> tuple[PollResult, float]:
        """Tell the fleet; returns what was found and the time from this poll to the next."""
        settings, engines = self._settings, len(self._fleet.engines)
        if found is None:
            self._fleet.probe_answered(engine, is_vllm=follower.is_vllm)
            return PollResult.PROBED, settings.probe_s
        if isinstance(found, EngineReading):
            self._fleet.metrics_arrived(engine, found, is_vllm=follower.is_vllm)
            return PollResult.MEASURED, max(settings.metrics_s, engines / settings.metrics_per_s)
        unchanged = engine.view.snapshot is not None and engine.view.snapshot.seq == found.seq
        self._fleet.snapshot_arrived(engine, found)
        result = PollResult.UNCHANGED if unchanged else PollResult.CHANGED
        return result, max(settings.closest_s, engines / settings.polls_per_s)


class _Follower:
    """Polls one engine."""

    def __init__(self, client: UpstreamClient, engine: Engine, settings: PollSettings) -> None:
        self._client = client
        self._engine = engine
        self._settings = settings
        self._target = engine.target
        self._capacity = engine.target.capacity_endpoint()
        self._capacity_from_s = 0.0
        """Time of the next look for capacity at an engine that had none."""
        self._models_from_s = self._metrics_from_s = 0.0
        """Times of the next looks for these."""
        self._has_metrics = False
        self.is_vllm = False
        """What the last probe said."""

    async def poll(self, now_s: float) -> CapacitySnapshot | EngineReading | None:
        """The engine's snapshot or what its metrics say; None if it lives but tells nothing.

        Raises:
            MissedPollError: it did not answer, or not as it should.
        """
        if self._engine.target is not self._target:
            self._target = self._engine.target
            self._capacity = self._target.capacity_endpoint()
        if self._capacity is not None and now_s >= self._capacity_from_s:
            snapshot = await self._ask_capacity(self._capacity)
            if snapshot is not None:
                # New or back: the capacity server may be up before the OpenAI server is.
                if not self._engine.health.trusted:
                    await self._probe()
                return snapshot
            await self._probe()
            # Only now: while nothing answers at all, the engine is starting and capacity is still expected.
            self._capacity_from_s = now_s + self._settings.recheck_s
        elif now_s >= self._models_from_s or not self._engine.health.trusted:
            await self._probe()
            self._models_from_s = now_s + self._settings.probe_s
        return await self._ask_metrics(now_s)

    async def _ask_metrics(self, now_s: float) -> EngineReading | None:
        """What the engine's metrics say; None where it has none that we know."""
        if now_s < self._metrics_from_s:
            return None
        reading = None
        try:
            status, body = await self._get(self._engine.endpoint, "/metrics", self._settings.answer_s)
        except UpstreamError as error:
            if self._has_metrics:
                raise MissedPollError(f"metrics: {error}") from error
            log.info("engine %s: no metrics: %s", self._target.name, error)
        else:
            reading = read_metrics(body) if status == 200 else None
        self._has_metrics = reading is not None
        if reading is None:
            self._metrics_from_s = now_s + self._settings.recheck_s
        return reading

    async def _ask_capacity(self, endpoint: Endpoint) -> CapacitySnapshot | None:
        # Metrics make a snapshot too, but its number is not the engine's.
        known = self._engine.view.snapshot if self._engine.endpoint.has_capacity else None
        path, wait_s = "/capacity", 0.0
        if known is not None and self._engine.health.trusted:
            wait_s = self._settings.wait_s
            path = f"/capacity?after={known.seq}&wait={wait_s * 1e3:.0f}"
        try:
            status, body = await self._get(endpoint, path, wait_s + self._settings.answer_s)
        except UpstreamError as error:
            if known is None and error.kind in (FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT):
                return None
            raise MissedPollError(f"capacity: {error}") from error
        if status in NOT_THERE and known is None:
            return None
        if status in REFUSED:
            raise MissedPollError(f"capacity: answered {status}; check the key of this engine")
        if status != 200:
            raise MissedPollError(f"capacity: answered {status}")
        try:
            return decode_snapshot(body)
        except CapacityError as error:
            raise MissedPollError(f"capacity: {error}") from error

    async def _probe(self) -> None:
        try:
            status, body = await self._get(self._engine.endpoint, "/v1/models", self._settings.answer_s)
        except UpstreamError as error:
            raise MissedPollError(f"models: {error}") from error
        if status in REFUSED:
            raise MissedPollError(f"models: answered {status}; check the apiKey of this endpoint")
        if status >= 500:
            raise MissedPollError(f"models: answered {status}")
        self.is_vllm = _VLLM.search(body) is not None

    async def _get(self, endpoint: Endpoint, path: str, timeout_s: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await self._client.request(endpoint, _head(endpoint, path))
                try:
                    return exchange.status, await exchange.read_all(MAX_ANSWER_BYTES)
                finally:
                    exchange.abort()
        except TimeoutError as error:
            raise UpstreamError(FailureKind.TOTAL_TIMEOUT, f"no answer within {timeout_s:g} s") from error


def _head(endpoint: Endpoint, path: str) -> bytes:
    # Each poll has another path: not through the cache of routes.
    return request_head.__wrapped__(endpoint, "GET", path)
