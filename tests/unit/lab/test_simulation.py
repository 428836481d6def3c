"""The simulator: deterministic, conserving, and agreeing with figures worked out by hand."""

import io
import json
from collections.abc import Sequence

import pytest

from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import make_policy
from proserve_core.clues import LengthClues
from proserve_core.gain import earned_gain
from proserve_core.latency import LatencyModel
from proserve_core.objectives import PriorityClass, ServiceObjectives
from proserve_core.replica import Replica
from proserve_core.resources import parse_resources
from proserve_core.routing.registry import make_room
from proserve_lab.simulation.result import summarise, write_token_log
from proserve_lab.simulation.run import SimulationRun, simulate
from proserve_lab.simulation.workload import DEFAULT_MIX, MixError, class_mix, make_workload
from proserve_lab.trace import TraceRow

TEN_MS_STEPS = LatencyModel(
    host_s=0.01, floor_s=0.0, linear_base_s=0.0, linear_token_s=0.0, attention_s=0.0, context_s=0.0, sequence_s=0.0
)
GPU = LatencyModel(
    host_s=0.0015,
    floor_s=0.0055,
    linear_base_s=0.0003,
    linear_token_s=19.5e-6,
    attention_s=5e-10,
    context_s=42e-9,
    sequence_s=7e-6,
)


def replicas(count: int, *, latency: LatencyModel = GPU, blocks: int = 2000) -> list[Replica]:
    limits = EngineLimits(block_size=16, blocks=blocks, max_sequences=64, max_step_tokens=2048)
    return [
        Replica(policy=make_policy("fcfs"), policy_name="fcfs", limits=limits, latency=latency) for _ in range(count)
    ]


def rows(count: int, *, gap_s: float, prompt: int = 200, output: int = 20) -> list[TraceRow]:
    return [
        TraceRow(arrival_s=number * gap_s, prompt_tokens=prompt + 7 * number, output_tokens=output)
        for number in range(count)
    ]


def run(trace: Sequence[TraceRow], *, count: int = 1, router: str = "min-load", blocks: int = 2000) -> SimulationRun:
    workload = make_workload(trace, mix=DEFAULT_MIX, seed=3)
    return simulate(workload, replicas=replicas(count, blocks=blocks), rooms=[make_room(router)])


def test_one_request_takes_one_step_per_token() -> None:
    workload = make_workload(rows(1, gap_s=0, output=3), mix=DEFAULT_MIX, seed=0)
    result = simulate(workload, replicas=replicas(1, latency=TEN_MS_STEPS))
    assert result.outcomes[0].emitted_s == pytest.approx([0.01, 0.02, 0.03])
    assert result.steps == 3
    assert result.busy_s == pytest.approx(0.03)


def test_same_inputs_give_the_same_run() -> None:
    first, second = (run(rows(60, gap_s=0.01), count=3, router="go-routing") for _ in range(2))
    assert [outcome.emitted_s for outcome in first.outcomes] == [outcome.emitted_s for outcome in second.outcomes]


def test_all_tokens_come_and_blocks_balance_under_shortage() -> None:
    result = run(rows(40, gap_s=0.001, prompt=300, output=60), blocks=120)
    assert result.preemptions > 0
    assert sum(len(outcome.emitted_s) for outcome in result.outcomes) == 40 * 60


def test_a_run_that_stops_after_the_last_deadline_earns_the_same_by_class_and_cause() -> None:
    workload = make_workload(rows(150, gap_s=0.004, prompt=900, output=30), mix=DEFAULT_MIX, seed=3)
    whole, stopped = (simulate(workload, replicas=replicas(1), to_the_end=to_the_end) for to_the_end in (True, False))
    assert stopped.steps < whole.steps
    assert whole.ledger.total().lost
    assert stopped.ledger.by_class() == whole.ledger.by_class()


def test_more_replicas_deliver_more_under_overload() -> None:
    trace = rows(150, gap_s=0.004, prompt=800)
    one, four = run(trace), run(trace, count=4)
    assert four.ledger.total().tdg_ratio > one.ledger.total().tdg_ratio + 0.1


def test_token_log_recomputes_the_gain() -> None:
    result = run(rows(80, gap_s=0.004, prompt=800))
    log = io.StringIO()
    write_token_log(result.outcomes, log)
    records = [json.loads(line) for line in log.getvalue().splitlines()]
    terms = {outcome.request.id: outcome.request.terms for outcome in result.outcomes}
    earned = sum(earned_gain(terms[record["id"]], record["arrival"], record["emitted"]) for record in records)
    assert earned == pytest.approx(result.ledger.total().earned)
    assert {record["class"] for record in records} == {"high", "low"}


def test_summary_has_the_fields_scripts_read() -> None:
    result = run(rows(21, gap_s=0.05))
    summary = summarise(result, policy="fcfs", router="min-load", replicas=1, plan_s=[1e-6, 3e-6], wall_s=1.0)
    assert summary.rate == pytest.approx(20)
    assert summary.plan_us.p50 == pytest.approx(1)
    assert summary.requests == 21
    assert sum(figures.requests for figures in summary.classes.values()) == 21


def test_requests_keep_the_trace_s_clues_to_their_length() -> None:
    row = TraceRow(arrival_s=0.0, prompt_tokens=10, output_tokens=5, client="a", prefix_hash_ids=(3, 9))
    (request,) = make_workload([row], mix=DEFAULT_MIX, seed=0)
    assert request.clues == LengthClues(client="a", prefix="3")


def test_classes_are_drawn_with_the_seed() -> None:
    trace = rows(200, gap_s=0)
    drawn = [[r.terms.priority_class for r in make_workload(trace, mix=DEFAULT_MIX, seed=seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 60 < drawn[0].count("high") < 140


def test_class_file_needs_shares_for_several_classes() -> None:
    document = """
apiVersion: proserve.dev/v1alpha1
kind: PriorityClass
metadata: {{name: {name}}}
spec: {{weight: 1, objectives: {{timeToFirstToken: 1s, timePerOutputToken: 50ms}}}}
"""
    one = document.format(name="a")
    assert class_mix(parse_resources({"mix.yaml": one}))[0][1] == 1.0
    both = one + "---" + document.format(name="b")
    with pytest.raises(MixError, match=r"proserve\.dev/share"):
        class_mix(parse_resources({"mix.yaml": both}))


def test_shares_of_the_class_file_are_followed() -> None:
    rare = PriorityClass(name="rare", weight=9, objectives=ServiceObjectives(ttft_s=1, tpot_s=1))
    mix = ((rare, 0.1), (DEFAULT_MIX[1][0], 0.9))
    drawn = [r.terms.priority_class for r in make_workload(rows(1000, gap_s=0), mix=mix, seed=0)]
    assert 60 < drawn.count("rare") < 140


@pytest.mark.parametrize("router", ["late-gain", "go-full", "prefix-affinity"])
def test_all_requests_are_served_whoever_routes_them(router: str) -> None:
    result = run(rows(120, gap_s=0.004, prompt=800), count=3, router=router)
    assert sum(len(outcome.emitted_s) for outcome in result.outcomes) == 120 * 20


def test_a_waiting_room_in_front_of_stock_engines_serves_the_heavy_class_first() -> None:
    trace = rows(200, gap_s=0.005, prompt=800, output=60)
    late, immediate = run(trace, count=2, router="late-gain"), run(trace, count=2, router="least-requests")
    high, before = late.ledger.by_class()["high"].tdg_ratio, immediate.ledger.by_class()["high"].tdg_ratio
    assert high > before + 0.2
    assert late.ledger.total().tdg_ratio > immediate.ledger.total().tdg_ratio + 0.05


def test_requests_come_to_several_gateways_in_turn_and_none_sees_what_the_others_send() -> None:
    """Two gateways that count requests send each pair of simultaneous ones to the same replica."""
    workload = make_workload(
        [TraceRow(arrival_s=1.0 * (number // 2), prompt_tokens=50, output_tokens=3) for number in range(20)],
        mix=DEFAULT_MIX,
        seed=0,
    )

    def first_tokens(gateways: int) -> list[float]:
        rooms = [make_room("least-requests") for _ in range(gateways)]
        result = simulate(workload, replicas=replicas(2), rooms=rooms)
        return [outcome.emitted_s[0] - outcome.request.arrival_s for outcome in result.outcomes]

    assert max(first_tokens(1)[1::2]) < max(first_tokens(2)[1::2])


def test_several_replicas_need_a_gateway() -> None:
    with pytest.raises(ValueError, match="2 replicas need at least one gateway"):
        simulate([], replicas=replicas(2))


def test_replicas_do_not_compute_beginnings_again_that_they_hold() -> None:
    trace = [TraceRow(arrival_s=float(number), prompt_tokens=1500, output_tokens=5) for number in range(4)]
    workload = make_workload(trace, mix=DEFAULT_MIX, seed=0)
    prefixes = {request.id: (1, 2) for request in workload}
    cold, warm = (simulate(workload, replicas=replicas(1), prefixes=given) for given in (None, prefixes))
    assert cold.computed_tokens - warm.computed_tokens == 3 * 1024
