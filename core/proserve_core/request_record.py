"""What a gateway remembers of a request: where it went and why, what was predicted and what happened.

The admin port serves these records, `proserve gateway --record` writes them, `proserve replay` reads them. They hold no
prompt, no answer and no key. Times are seconds after the request's arrival unless they say otherwise.
"""

import msgspec

from proserve_core.gain import LossCause, earnable_gain
from proserve_core.latency import LatencyModel
from proserve_core.objectives import PriorityClass, ServiceTerms


class Alternative(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An engine that a routing policy weighed, and what it expected there."""

    engine: str
    expected_ttft_s: float | None = None
    """None: the policy does not predict it."""
    expected_gain: float | None = None
    """What the request would add, less what others would lose; None: not worked out."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request's time at one engine."""

    engine: str
    reason: str
    """Why this engine."""
    sent_s: float
    waited_s: float = 0.0
    """How long it had waited for an engine, in the gateway."""
    expected_ttft_s: float | None = None
    expected_gain: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    """The chosen engine included."""
    tokens: int = 0
    """That reached the client from here."""
    served_as: str = ""
    """Class that it was degraded to; empty: its own."""
    failure: str = ""
    """How the engine failed, as in `engine_failures_total`; empty: it did not."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, from its arrival until now or its end."""

    id: str
    arrived_unix_s: float
    tenant: str
    model: str
    pool: str
    terms: ServiceTerms
    expected_prompt_tokens: int
    prompt_tokens: int | None = None
    """As the engine counted them; None: it did not say."""
    expected_output_tokens: float = 0.0
    output_tokens: int = 0
    max_tokens: int | None = None
    choices: int = 1
    streams: bool = False
    attempts: tuple[Attempt, ...] = ()
    ttft_s: float | None = None
    last_token_s: float | None = None
    ended_s: float | None = None
    """None: it has not."""
    status: int | None = None
    """As in `requests_total`; 499: the client left, or its deadline passed. None: it has not ended."""
    error: str = ""
    """Code of the error that the client got."""
    why: str = ""
    """That error in the gateway's own words."""
    trace_id: str = ""
    """Of the trace that it is part of; empty: of none."""
    earned: float = 0.0
    lost: dict[LossCause, float] = {}

    @property
    def priority_class(self) -> str:
        return self.terms.priority_class

    @property
    def earnable(self) -> float:
        """Gain of what was earned and lost so far; before the first token, of the expected answer."""
        so_far = self.earned + sum(self.lost.values())
        return so_far or earnable_gain(self.terms, round(self.expected_output_tokens))

    @property
    def main_loss(self) -> LossCause | None:
        """The cause that cost most."""
        return max(self.lost, key=lambda cause: self.lost[cause]) if self.lost else None


class RecordsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `/decisions`: the newest first."""

    requests: list[RequestRecord]


class RecordedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as it told of itself when requests were recorded."""

    name: str
    pool: str
    policy: str
    block_size: int
    blocks: int
    max_sequences: int
    max_step_tokens: int
    latency: LatencyModel


class RecordedFleet(msgspec.Struct, frozen=True, kw_only=True):
    """What served the requests that follow."""

    at_unix_s: float
    routers: dict[str, str]
    """Routing policy by pool."""
    classes: tuple[PriorityClass, ...] = ()
    """As configured, for what requests don't carry: headroom."""
    engines: tuple[RecordedEngine, ...]
    """Those that publish their capacity."""


class RecordLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of a record file: a request that has ended, or the fleet."""

    request: RequestRecord | None = None
    fleet: RecordedFleet | None = None
