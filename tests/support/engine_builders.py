"""Small builders for tests of batching policies and the replica, and a driver with a virtual clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proserve_core.batching import EngineLimits, EngineState, RequestState
from proserve_core.batching.request_table import RequestTable
from proserve_core.gain import earnable_gain, earned_gain
from proserve_core.latency import LatencyModel
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.replica import Replica, SubmitError

H100_LLAMA_8B = LatencyModel(
    host_s=1.5e-3,
    floor_s=5.5e-3,
    linear_base_s=0.3e-3,
    linear_token_s=19.5e-6,
    attention_s=5.0e-10,
    context_s=4.2e-8,
    sequence_s=7.0e-6,
)
MILLISECOND_PER_TOKEN = LatencyModel(
    host_s=0.010,
    floor_s=0.0,
    linear_base_s=0.0,
    linear_token_s=0.001,
    attention_s=0.0,
    context_s=0.0,
    sequence_s=0.0,
)
"""10 ms per step and 1 ms per token: predictions that can be worked out by hand."""


def service_terms(
    weight: float = 1.0,
    *,
    ttft_s: float = 1.0,
    tpot_s: float = 0.05,
    first_token_gain: float = 1.0,
    output_token_gain: float = 1.0,
) -> ServiceTerms:
    return ServiceTerms(
        priority_class=f"weight-{weight:g}",
        weight=weight,
        first_token_gain=first_token_gain,
        output_token_gain=output_token_gain,
        objectives=ServiceObjectives(ttft_s=ttft_s, tpot_s=tpot_s),
    )


def engine_limits(
    *, blocks: int = 1000, block_size: int = 16, max_sequences: int = 64, max_step_tokens: int = 8192
) -> EngineLimits:
    return EngineLimits(
        block_size=block_size, blocks=blocks, max_sequences=max_sequences, max_step_tokens=max_step_tokens
    )


def waiting(
    name: str, prompt_tokens: int, *, arrival_s: float = 0.0, terms: ServiceTerms | None = None, emitted: int = 0
) -> RequestState:
    """A request that is not resident; with `emitted` tokens it was preempted."""
    return RequestState(
        id=name,
        arrival_s=arrival_s,
        terms=terms or service_terms(),
        prompt_tokens=prompt_tokens,
        emitted_tokens=emitted,
        preemptions=1 if emitted else 0,
    )


def prefilling(
    name: str,
    prompt_tokens: int,
    computed: int,
    *,
    arrival_s: float = 0.0,
    terms: ServiceTerms | None = None,
    block_size: int = 16,
) -> RequestState:
    return RequestState(
        id=name,
        arrival_s=arrival_s,
        terms=terms or service_terms(),
        prompt_tokens=prompt_tokens,
        computed_tokens=computed,
        blocks=-(-computed // block_size),
        resident=True,
    )


def decoding(
    name: str,
    *,
    prompt_tokens: int = 32,
    emitted: int = 1,
    arrival_s: float = 0.0,
    terms: ServiceTerms | None = None,
    first_token_s: float | None = None,
    block_size: int = 16,
) -> RequestState:
    computed = prompt_tokens + emitted - 1
    return RequestState(
        id=name,
        arrival_s=arrival_s,
        terms=terms or service_terms(),
        prompt_tokens=prompt_tokens,
        computed_tokens=computed,
        emitted_tokens=emitted,
        blocks=-(-computed // block_size),
        resident=True,
        first_token_s=arrival_s if first_token_s is None else first_token_s,
    )


def engine_state(
    *requests: RequestState,
    now_s: float = 0.0,
    limits: EngineLimits | None = None,
    latency: LatencyModel = MILLISECOND_PER_TOKEN,
    free_blocks: int | None = None,
) -> EngineState:
    limits = limits or engine_limits()
    held = sum(request.blocks for request in requests)
    return EngineState(
        now_s=now_s,
        requests=RequestTable(requests),
        limits=limits,
        free_blocks=limits.blocks - held if free_blocks is None else free_blocks,
        latency=latency,
    )


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One request of a workload."""

    id: str
    arrival_s: float
    terms: ServiceTerms
    prompt_tokens: int
    output_tokens: int


@dataclass(kw_only=True)
class Outcome:
    """What came out of a run."""

    arrivals: Sequence[Arrival]
    emitted_s: dict[str, list[float]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    end_s: float = 0.0

    def tdg_ratio(self, chosen: Callable[[Arrival], bool] | None = None) -> float:
        arrivals = [arrival for arrival in self.arrivals if chosen is None or chosen(arrival)]
        earned = sum(earned_gain(a.terms, a.arrival_s, self.emitted_s.get(a.id, ())) for a in arrivals)
        return earned / sum(earnable_gain(a.terms, a.output_tokens) for a in arrivals)


def drive(replica: Replica, arrivals: Sequence[Arrival]) -> Outcome:
    """Run a workload (ordered by arrival) to its end on a virtual clock."""
    outcome = Outcome(arrivals=arrivals)
    now_s, upcoming = 0.0, 0
    while upcoming < len(arrivals) or replica.pending:
        if not replica.pending:
            now_s = max(now_s, arrivals[upcoming].arrival_s)
        while upcoming < len(arrivals) and arrivals[upcoming].arrival_s <= now_s:
            arrival = arrivals[upcoming]
            upcoming += 1
            try:
                replica.submit(
                    request_id=arrival.id,
                    terms=arrival.terms,
                    arrival_s=arrival.arrival_s,
                    prompt_tokens=arrival.prompt_tokens,
                    output_tokens=arrival.output_tokens,
                )
            except SubmitError:
                outcome.refused.append(arrival.id)
        step = replica.begin_step(now_s)
        if step is None:
            continue
        now_s += step.duration_s
        for emission in replica.complete_step(now_s):
            outcome.emitted_s.setdefault(emission.id, []).append(now_s)
    outcome.end_s = now_s
    return outcome
