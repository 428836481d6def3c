"""What every batching policy must hold, over random engine states and whole runs."""

import math
from collections.abc import Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from batching_states import engine_states, every_policy, few_examples, latency_strategy, terms_strategy
from engine_builders import Arrival, drive
from proserve_core.batching import BatchPlan, EngineLimits, EngineState, Reason, RequestState
from proserve_core.batching.fill import blocks_for
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.registry import make_policy
from proserve_core.latency import LatencyModel, StepWork
from proserve_core.objectives import ServiceTerms
from proserve_core.replica import Replica


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
    alone_s = state.latency.step_s(work)
    back = sum(requests[entry.id].host_tokens for entry in result.entries) // state.limits.block_size
    with_copies_s = alone_s if state.resume is None or not back else state.resume.step_s(back, alone_s)
    assert math.isclose(result.predicted_s, with_copies_s, rel_tol=1e-9)


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
