"""What explanations of every batching policy must hold: they name the order that the plan has."""

from collections.abc import Mapping

import msgspec
from hypothesis import given

from batching_states import engine_states, every_policy, few_examples
from proserve_core.batching import EngineState, Reason
from proserve_core.batching.explain import Decision, ExplainedStep
from proserve_core.batching.explain.orders import ORDERS, standing
from proserve_core.batching.registry import POLICIES, make_policy


@every_policy
@few_examples
@given(state=engine_states())
def test_what_runs_is_in_the_order_that_the_explanation_gives(
    name: str, options: Mapping[str, object], state: EngineState
) -> None:
    policy = make_policy(name, options)
    plan = policy.plan(state)
    ranks = [standing(policy, state, state.requests.by_id[entry.id]).rank for entry in plan.entries]
    assert ranks == sorted(ranks)
    assert all(ranks)


@every_policy
@few_examples
@given(state=engine_states())
def test_every_request_has_an_explanation_that_agrees_with_the_plan(
    name: str, options: Mapping[str, object], state: EngineState
) -> None:
    policy = make_policy(name, options)
    plan = policy.plan(state)
    before = msgspec.json.encode(list(state.requests))
    step = ExplainedStep(policy, state, plan)
    for request in state.requests:
        explanation = step.explain(request)
        assert explanation.reason == plan.reason(request.id)
        assert explanation.group
        assert (explanation.decision is Decision.RUNS) == (explanation.reason == Reason.SCHEDULED)
        assert (explanation.decision is Decision.LOSES_BLOCKS) == (request.id in plan.preempt)
        assert explanation.taken_by is None or explanation.taken_by in {*plan.preempt, *(e.id for e in plan.entries)}
        assert (explanation.taken_by is None) == (request.id not in plan.preempt)
    assert msgspec.json.encode(list(state.requests)) == before


def test_every_policy_has_its_order_explained() -> None:
    assert {type(make_policy(name)) for name in POLICIES} <= set(ORDERS)
