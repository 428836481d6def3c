"""What equal tenants of a class get of simulated engines when one of them floods."""

import random

import pytest

from proserve_core.batching.registry import make_policy
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import PriorityClass, ServiceObjectives
from proserve_core.replica import Replica
from proserve_core.routing import make_room
from proserve_lab.simulation.run import Outcome, simulate
from proserve_lab.simulation.workload import SimulatedRequest

TERMS = PriorityClass(name="only", weight=1, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.05)).terms()
ENGINE = load_calibration("h100-llama-3.1-8b")
SATURATION = 9.8
"""Requests of 4,000 prompt and 60 output tokens per second, about."""


def run(policy: str, *, span_s: float, **rates: float) -> list[Outcome]:
    """Each tenant sends so many requests per second."""
    draw = random.Random(3)
    requests: list[SimulatedRequest] = []
    for tenant, rate in rates.items():
        at_s = draw.expovariate(rate)
        while at_s < span_s:
            requests.append(
                SimulatedRequest(
                    id=f"{tenant}-{len(requests)}",
                    terms=TERMS,
                    arrival_s=at_s,
                    prompt_tokens=draw.randint(3000, 5000),
                    output_tokens=draw.randint(40, 80),
                    tenant=tenant,
                )
            )
            at_s += draw.expovariate(rate)
    requests.sort(key=lambda request: request.arrival_s)
    replica = Replica(policy=make_policy(policy), policy_name=policy, limits=ENGINE.limits(), latency=ENGINE.latency)
    return simulate(requests, replicas=[replica], rooms=[make_room("late-gain")], to_the_end=False).outcomes


def ratio(outcomes: list[Outcome], tenant: str) -> float:
    accounts = [outcome.account for outcome in outcomes if outcome.request.tenant == tenant]
    return sum(account.earned for account in accounts) / sum(account.earnable for account in accounts)


def served_tokens(outcomes: list[Outcome], tenant: str) -> int:
    """Of requests that were served in time, once the engine was full."""
    return sum(
        outcome.request.prompt_tokens + outcome.request.output_tokens
        for outcome in outcomes
        if outcome.request.tenant == tenant
        and outcome.request.arrival_s > 2.0
        and outcome.account.earned > outcome.account.earnable / 2
    )


@pytest.mark.parametrize("policy", ["fcfs", "recoverable-gain"])
def test_flood_takes_nothing_from_a_tenant_within_its_part(policy: str) -> None:
    outcomes = run(policy, span_s=8.0, flood=2.5 * SATURATION, modest=0.3 * SATURATION)
    # A stock engine computes all prompts that it has in one step, so one long prompt still delays its decodes.
    assert ratio(outcomes, "modest") > 0.9
    assert ratio(outcomes, "flood") < 0.6


@pytest.mark.parametrize("policy", ["fcfs", "recoverable-gain"])
def test_tenants_that_both_want_more_get_equal_parts(policy: str) -> None:
    # A turn is some 4,000 tokens and not each of them arrives in time, so parts are equal only over many.
    outcomes = run(policy, span_s=32.0, much=2.0 * SATURATION, more=1.0 * SATURATION)
    assert served_tokens(outcomes, "much") == pytest.approx(served_tokens(outcomes, "more"), rel=0.1)
