"""How the demo chooses its load and objectives."""

import msgspec
import pytest

from proserve_cli.demo_plan import (
    FEWEST_REQUESTS,
    HIGH,
    KEYS,
    LOAD,
    LOW,
    SETTINGS,
    make_plan,
    plan_notes,
    plan_requests,
)
from proserve_cli.demo_resources import demo_pool, demo_resources
from proserve_cli.engine_kind import EngineKind
from proserve_core.resources import parse_resources
from proserve_lab.probe import Throughput
from proserve_lab.shipped_traces import DEMO_TRACE, shipped_trace
from proserve_lab.trace import read_trace

SETTING = SETTINGS[EngineKind.EMULATED]
MEASURED = Throughput(requests_per_s=20.0, tokens_per_s=2000.0, ttft_p50_s=0.0401, tpot_p50_s=0.015)
ROWS = read_trace(shipped_trace(DEMO_TRACE))


def test_load_is_a_multiple_of_the_mean_capacity() -> None:
    slower = msgspec.structs.replace(MEASURED, requests_per_s=10.0)
    plan = make_plan([MEASURED, slower], settings=SETTING, rows=1000, seed=0)
    assert plan.rate == pytest.approx(LOAD * 15.0)
    assert plan.requests == round(plan.rate * SETTING.replay_s)


def test_objectives_follow_the_measured_latencies_in_whole_milliseconds() -> None:
    classes = make_plan([MEASURED], settings=SETTING, rows=1000, seed=0).classes
    assert classes[HIGH].objectives.ttft_s == pytest.approx(0.121)
    assert classes[HIGH].objectives.tpot_s == pytest.approx(0.03)
    assert classes[LOW].objectives.ttft_s == pytest.approx(3 * 0.121)
    assert classes[HIGH].weight > classes[LOW].weight


def test_requests_are_limited_by_the_trace_and_never_too_few_for_a_comparison() -> None:
    assert make_plan([MEASURED], settings=SETTING, rows=30, seed=0).requests == 30
    slow = msgspec.structs.replace(MEASURED, requests_per_s=0.1)
    plan = make_plan([slow], settings=SETTING, rows=1000, seed=0)
    assert plan.requests == FEWEST_REQUESTS
    assert "expect the figures to vary" in plan_notes(plan, [slow])[0]


def test_measurements_that_differ_are_noted() -> None:
    plan = make_plan([MEASURED], settings=SETTING, rows=1000, seed=0)
    assert plan_notes(plan, [MEASURED, MEASURED]) == []
    [note] = plan_notes(plan, [MEASURED, msgspec.structs.replace(MEASURED, requests_per_s=40.0)])
    assert "20.0, 40.0 requests/s" in note


def test_every_replay_sends_the_same_requests_with_the_tenants_keys() -> None:
    plan = make_plan([MEASURED], settings=SETTING, rows=len(ROWS), seed=3)
    requests = plan_requests(plan, ROWS, SETTING.scale)
    assert requests == plan_requests(plan, ROWS, SETTING.scale)
    assert {request.api_key for request in requests} == set(KEYS.values())
    assert all(KEYS[request.terms.priority_class] == request.api_key for request in requests)


def test_the_resources_carry_the_chosen_objectives() -> None:
    plan = make_plan([MEASURED], settings=SETTING, rows=1000, seed=0)
    resources = parse_resources({"demo": demo_resources(plan, SETTING)}, require_pools=True, require_tenants=True)
    assert {each.name: each.objectives for each in resources.priority_classes} == {
        name: each.objectives for name, each in plan.classes.items()
    }
    assert {key for tenant in resources.tenants for key in resources.api_keys(tenant)} == set(KEYS.values())
    assert resources.engine_pools[0].model.name == demo_pool(SETTING).model.name
