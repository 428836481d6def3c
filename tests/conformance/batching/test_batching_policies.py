"""What every batching policy must hold, over random engine states and whole runs."""

import math
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_builders import H100_LLAMA_8B, MILLISECOND_PER_TOKEN, Arrival, drive, service_terms
from proserve_core.batching import BatchPlan, EngineLimits, EngineState, Reason, RequestState
from proserve_core.batching.fill import blocks_for
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.registry import POLICIES, make_policy
from proserve_core.batching.request_table import RequestTable
from proserve_core.latency import LatencyModel, StepWork
from proserve_core.objectives import ServiceTerms
from proserve_core.replica import Replica

VARIANTS: list[tuple[str, Mapping[str, object]]] = [
    *[(name, {}) for name in POLICIES],
    ("qoserve", {"deadline": "fixed", "a": 0.0}),
    ("sliding-serve", {"sliding": False, "knapsack": False, "own_predictor": False, "aging_s": 1.0}),
    ("slide-batching", {"deadline": "first-token"}),
    ("slide-batching", {"decodes_first": False}),
    ("slide-batching", {"starvation": "lateness", "starvation_slos": 0.5}),
    ("slide-batching", {"starvation": "wait", "starvation_wait_s": 1.0}),
    ("slide-batching", {"skip": True}),
    ("slide-batching", {"skip": True, "min_chunk": 1, "urgency": 0.01}),
]
every_policy = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=[f"{name}-{'-'.join(map(str, options.values()))}" for name, options in VARIANTS]
)
few_examples = settings(max_examples=25)
"""Each property runs over every variant, so a few examples each make many in all, in seconds."""

SLOW = LatencyModel(
    host_s=0.5,
    floor_s=0.0,
    linear_base_s=0.1,
    linear_token_s=0.01,
    attention_s=1e-5,
    context_s=1e-4,
    sequence_s=1e-3,
)
"""Steps longer than any deadline: every time budget is too short."""

TERMS = [
    service_terms(weight, ttft_s=ttft_s, tpot_s=tpot_s, first_token_gain=first_token_gain)
    for weight in (1.0, 2.0, 10.0)
    for ttft_s in (0.1, 1.0, 30.0)
    for tpot_s in (0.01, 0.05, 1.0)
    for first_token_gain in (1.0, 10.0)
]
terms_strategy = st.sampled_from(TERMS)
CONSTANT = LatencyModel(
    host_s=0.01,
    floor_s=0.0,
    linear_base_s=0.0,
    linear_token_s=0.0,
    attention_s=0.0,
    context_s=0.0,
    sequence_s=0.0,
)
"""What a fit may give when all steps took the same time."""
latency_strategy = st.sampled_from([H100_LLAMA_8B, MILLISECOND_PER_TOKEN, SLOW, CONSTANT])


REQUEST = (
    st.integers(1, 120),  # prompt tokens
    st.one_of(st.just(0), st.integers(0, 40)),  # emitted tokens
    st.sampled_from([0, 0, 30, 99]),  # percent computed; of a waiting request: cached
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.04, 0.5, 1.5, 50.0]),  # age, seconds
    terms_strategy,
)


@st.composite
def engine_states(draw: st.DrawFn) -> EngineState:
    """States that an engine can be in: any mix of stages, blocks that add up, nobody too large for an empty engine."""
    block_size = draw(st.sampled_from([1, 4, 16]))
    max_sequences = draw(st.integers(1, 8))
    now_s = draw(st.floats(0.0, 100.0))
    requests: list[RequestState] = []
    residents = 0
    # One draw per request: many small draws are what a run of this suite spends its time on.
    drawn = draw(st.lists(st.tuples(*REQUEST), max_size=12))
    for number, (prompt, emitted, share, may_reside, may_decode, age_s, terms) in enumerate(drawn):
        resident = may_reside and residents < max_sequences
        residents += resident
        total = prompt + emitted
        computed = total - 1 if resident and emitted and may_decode else min(total - 1, total * share // 100)
        requests.append(
            RequestState(
                id=f"r{number}",
                arrival_s=now_s - age_s,
                terms=terms,
                prompt_tokens=prompt,
                computed_tokens=computed,
                emitted_tokens=emitted,
                blocks=blocks_for(computed, block_size) if resident else 0,
                resident=resident,
                preemptions=int(emitted > 0 and not resident),
                first_token_s=now_s - age_s / 2 if emitted else None,
            )
        )
    held = sum(request.blocks for request in requests)
    largest = max((blocks_for(request.total_tokens + 1, block_size) for request in requests), default=1)
    blocks = max(held, largest) + draw(st.sampled_from([0, 0, 1, 5, 1000]))
    return EngineState(
        now_s=now_s,
        requests=RequestTable(requests),
        limits=EngineLimits(
            block_size=block_size,
            blocks=blocks,
            max_sequences=max_sequences,
            max_step_tokens=draw(st.sampled_from([1, 7, 60, 8192])),
        ),
        free_blocks=blocks - held,
        latency=draw(latency_strategy),
    )


def plan(name: str, options: Mapping[str, object], state: EngineState) -> BatchPlan:
    return make_policy(name, options).plan(state)


def by_id(state: EngineState) -> dict[str, RequestState]:
    return {request.id: request for request in state.requests}


@every_policy
@few_examples
@given(state=engine_states())
def test_plan_fits_blocks_sequences_and_step_tokens(
    name: str, options: Mapping[str, object], state: EngineState
) -> None:
    result, requests, limits = plan(name, options, state), by_id(state), state.limits
    free = state.free_blocks + sum(requests[request_id].blocks for request_id in result.preempt)
    taken = sum(
        max(0, blocks_for(requests[e.id].computed_tokens + e.tokens, limits.block_size) - requests[e.id].blocks)
        for e in result.entries
    )
    assert taken <= free
    admitted = sum(not requests[entry.id].resident for entry in result.entries)
    residents = sum(request.resident for request in state.requests)
    assert residents - len(result.preempt) + admitted <= limits.max_sequences
    assert sum(entry.tokens for entry in result.entries) <= limits.max_step_tokens
    assert all(1 <= entry.tokens <= requests[entry.id].pending_tokens for entry in result.entries)


@every_policy
@few_examples
@given(state=engine_states())
def test_each_request_runs_once_or_has_a_reason(name: str, options: Mapping[str, object], state: EngineState) -> None:
    result = plan(name, options, state)
    running = [entry.id for entry in result.entries]
    assert len(set(running)) == len(running)
    assert set(running) <= by_id(state).keys()
    assert not set(running) & set(result.waits)
    for request in state.requests:
        assert (result.reason(request.id) is Reason.SCHEDULED) == (request.id in running)


@every_policy
@few_examples
@given(state=engine_states())
def test_only_residents_are_preempted_and_none_of_them_runs(
    name: str, options: Mapping[str, object], state: EngineState
) -> None:
    result, requests = plan(name, options, state), by_id(state)
    assert len(set(result.preempt)) == len(result.preempt)
    assert all(requests[request_id].resident for request_id in result.preempt)
    assert not {entry.id for entry in result.entries} & set(result.preempt)
    assert all(result.reason(request_id) is Reason.PREEMPTED for request_id in result.preempt)


@every_policy
@few_examples
@given(state=engine_states())
def test_order_has_the_residents_after_the_step(name: str, options: Mapping[str, object], state: EngineState) -> None:
    result = plan(name, options, state)
    kept = {request.id for request in state.requests if request.resident} - set(result.preempt)
    assert len(set(result.order)) == len(result.order)
    assert set(result.order) == kept | {entry.id for entry in result.entries}
    assert result.order[: len(result.entries)] == tuple(entry.id for entry in result.entries)


@every_policy
@few_examples
@given(state=engine_states())
def test_runnable_work_never_yields_an_empty_plan(name: str, options: Mapping[str, object], state: EngineState) -> None:
    assert bool(plan(name, options, state).entries) == bool(state.requests)


@every_policy
@few_examples
@given(state=engine_states())
def test_same_state_same_plan_and_the_state_is_untouched(
    name: str, options: Mapping[str, object], state: EngineState
) -> None:
    before = msgspec.json.encode(list(state.requests))
    policy = make_policy(name, options)
    first = policy.plan(state)
    assert msgspec.json.encode(list(state.requests)) == before
    assert plan(name, options, state) == first
    assert policy.plan(state) == first


@every_policy
@few_examples
@given(state=engine_states())
def test_prediction_is_the_latency_model_on_the_entries(
    name: str, options: Mapping[str, object], state: EngineState
) -> None:
    result, requests = plan(name, options, state), by_id(state)
    decodes = [requests[entry.id] for entry in result.entries if requests[entry.id].is_decode]
    prompts = [(requests[e.id], e.tokens) for e in result.entries if not requests[e.id].is_decode]
    work = StepWork(
        new_tokens=sum(entry.tokens for entry in result.entries),
        attention=sum(tokens * tokens + 2 * tokens * request.computed_tokens for request, tokens in prompts),
        decode_context=sum(request.computed_tokens for request in decodes),
        sequences=len(result.entries),
    )
    assert math.isclose(result.predicted_s, state.latency.step_s(work), rel_tol=1e-9)


workloads = st.lists(
    st.tuples(st.floats(0.0, 0.2), st.integers(1, 100), st.integers(1, 30), terms_strategy), min_size=1, max_size=25
)


@every_policy
@few_examples
@given(
    workload=workloads,
    blocks=st.integers(9, 40),
    max_sequences=st.integers(1, 8),
    max_step_tokens=st.sampled_from([1, 20, 512]),
    latency=latency_strategy,
)
def test_every_workload_ends_with_all_tokens_and_all_blocks_free(
    name: str,
    options: Mapping[str, object],
    workload: list[tuple[float, int, int, ServiceTerms]],
    blocks: int,
    max_sequences: int,
    max_step_tokens: int,
    latency: LatencyModel,
) -> None:
    policy: BatchingPolicy = make_policy(name, options)
    replica = Replica(
        policy=policy,
        policy_name=name,
        limits=EngineLimits(block_size=16, blocks=blocks, max_sequences=max_sequences, max_step_tokens=max_step_tokens),
        latency=latency,
    )
    arrivals, now_s = [], 0.0
    for number, (gap_s, prompt, output, terms) in enumerate(workload):
        now_s += gap_s
        arrivals.append(
            Arrival(id=f"r{number}", arrival_s=now_s, terms=terms, prompt_tokens=prompt, output_tokens=output)
        )
    outcome = drive(replica, arrivals)
    assert outcome.refused == []
    assert {name: len(times) for name, times in outcome.emitted_s.items()} == {a.id: a.output_tokens for a in arrivals}
    assert (replica.pending, replica.free_blocks) == (0, blocks)
    snapshot = replica.snapshot(outcome.end_s)
    assert (snapshot.running, snapshot.waiting, snapshot.classes) == (0, 0, {})
