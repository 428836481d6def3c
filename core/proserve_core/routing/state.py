"""What a routing policy sees and returns."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from proserve_core.capacity import CapacitySnapshot
from proserve_core.latency import LatencyModel
from proserve_core.objectives import ServiceTerms


class RoutingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that needs an engine. Times on the gateway's clock."""

    id: str
    arrival_s: float
    terms: ServiceTerms
    prompt_tokens: int
    """Estimated from bytes unless the client sent token ids."""
    expected_output_tokens: float
    streams: bool = True
    """Its first token will be seen; otherwise the answer comes as a whole."""
    tenant: str = ""
    """Who sent it."""
    boost: float = 1.0
    """The request weighs this many times as much as its class because of the class's headroom or its tenant's turn.
    Gain is accounted without."""
    entitled: bool = False
    """It is within its class's headroom."""
    prefix_blocks: tuple[int, ...] = ()
    """Hashes of the prompt's beginning, a block of `prefix_map.BLOCK_TOKENS` each; prompts that begin alike begin with
    the same ones. Empty: unknown."""
    cached_tokens: Mapping[str, int] = {}
    """Leading prompt tokens whose KV an engine is predicted to hold, by engine: fewer than all. Others hold none."""


def boosted(terms: ServiceTerms, boost: float) -> ServiceTerms:
    """Terms with so many times the weight: what an engine is told, so that it orders as the gateway does."""
    return terms if boost == 1 else msgspec.structs.replace(terms, weight=terms.weight * boost)


class Dispatched(msgspec.Struct, kw_only=True):
    """A request this gateway sent to an engine and that has not ended: dead reckoning between snapshots."""

    request: RoutingRequest
    sent_s: float
    cached_tokens: int = 0
    """What the engine was predicted to hold of the prompt when the request was sent."""
    emitted_tokens: int = 0
    begun_s: float = math.inf
    """From when on the first token is taken to be there although it was not seen."""
    in_snapshot: bool = False
    """The engine's snapshot already counts it. Changes only together with the snapshot."""


class EngineView(msgspec.Struct, kw_only=True):
    """One engine as the gateway knows it. Policies only read it."""

    name: str
    snapshot: CapacitySnapshot | None
    """None: the engine publishes no capacity (any OpenAI server); only own dispatches are known."""
    snapshot_s: float
    """When the snapshot was taken, on the gateway's clock (receipt minus its age)."""
    dispatched: dict[str, Dispatched]
    """Own requests in flight there, by request id, in the order in which they were sent."""
    revision: int = 0
    """Grows when an own request got its first token or ended, and with `latency`."""
    speed_known: bool = True
    """False: how fast it is will be learned, and until then nothing says how much it can take."""
    latency: LatencyModel | None = None
    """Learned from the streams that passed (`step_watch`), where there is no snapshot; None: nothing is known yet."""

    def requests(self) -> int:
        """Requests there, as far as this gateway knows."""
        if self.snapshot is None:
            return len(self.dispatched)
        since = sum([not entry.in_snapshot for entry in self.dispatched.values()])
        return self.snapshot.running + self.snapshot.waiting + since


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """Engines that may take the request: healthy, not draining, serving its model. Never empty."""

    now_s: float
    engines: Sequence[EngineView]


class RouteDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Where the request goes and why."""

    engine: str
    reason: str
    """One of a policy's few phrases, for people. Also a metric label, so numbers belong into the other fields."""
    expected_ttft_s: float | None = None
    expected_gain: float | None = None
    candidates: tuple[str, ...] = ()
    """Engines that were weighed, the chosen one included."""
    candidate_ttft_s: tuple[float, ...] = ()
    """Expected time to first token at the candidates; fewer than they: not worked out for the rest."""
    candidate_gain: tuple[float, ...] = ()
    """Expected gain at the candidates; fewer than they: not worked out for the rest."""
