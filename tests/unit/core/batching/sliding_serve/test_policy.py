"""`sliding-serve` by hand-worked examples: a step costs 10 ms and 1 ms per token, TTFT 1 s, TPOT 50 ms."""

import pytest

from engine_builders import (
    H100_LLAMA_8B,
    Arrival,
    decoding,
    drive,
    engine_limits,
    engine_state,
    prefilling,
    service_terms,
    waiting,
)
from proserve_core.batching import BatchPlan
from proserve_core.batching.registry import PolicyError, make_policy
from proserve_core.batching.sliding_serve import SlidingOptions, SlidingServe
from proserve_core.batching.sliding_serve.predictor import MIN_SAMPLES, Scenario
from proserve_core.replica import Replica

EXACT = SlidingOptions(safety=1.0, least_tokens=1, urgent_share=0.5)


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


def test_all_decodes_and_as_much_of_the_prompts_as_the_tightest_slack_allows() -> None:
    # Due in 200.5 ms: 10 + 2 decodes + 188.
    state = engine_state(
        decoding("due", arrival_s=9.1505),
        decoding("relaxed", arrival_s=9.9),
        prefilling("prompt", 2000, 100, arrival_s=9.9),
        now_s=10.0,
    )
    assert entries(SlidingServe(EXACT).plan(state)) == [("due", 1), ("relaxed", 1), ("prompt", 188)]
    # With 10% to spare: 182 ms.
    careful = SlidingServe(SlidingOptions(safety=1.1, least_tokens=1))
    assert entries(careful.plan(state)) == [("due", 1), ("relaxed", 1), ("prompt", 170)]


def test_late_decodes_leave_prompts_their_least() -> None:
    state = engine_state(decoding("late", first_token_s=5.0), prefilling("prompt", 2000, 100), now_s=10.0)
    assert entries(SlidingServe().plan(state)) == [("late", 1), ("prompt", 128)]


def test_without_decodes_the_tightest_first_token_that_can_be_met_bounds_the_step() -> None:
    # `lost` would need 900 ms and has 100; `tight` has 400.5 ms.
    state = engine_state(
        waiting("lost", 900, arrival_s=9.1),
        waiting("tight", 100, arrival_s=9.4005),
        waiting("large", 580, arrival_s=9.7),
        now_s=10.0,
    )
    assert entries(SlidingServe(EXACT).plan(state)) == [("large", 390)]


def test_first_tokens_at_risk_are_chosen_as_a_knapsack() -> None:
    # 300 ms to the decode's deadline and to three first tokens: 289 of them hold the long prompt, or both short ones.
    late = 9.3005
    state = engine_state(
        decoding("decode", arrival_s=9.2505),
        waiting("long", 200, arrival_s=late),
        waiting("short", 130, arrival_s=late),
        waiting("other", 130, arrival_s=late),
        now_s=10.0,
    )
    assert entries(SlidingServe(EXACT).plan(state)) == [("decode", 1), ("short", 130), ("other", 130), ("long", 29)]
    greedy = SlidingServe(SlidingOptions(safety=1.0, least_tokens=1, urgent_share=0.5, knapsack=False)).plan(state)
    assert entries(greedy) == [("decode", 1), ("long", 200), ("short", 89)]


def test_started_prompts_run_though_no_sequence_slot_is_free() -> None:
    state = engine_state(
        decoding("decode", arrival_s=9.2),
        prefilling("started", 100, 50, arrival_s=9.9),
        waiting("first", 100, arrival_s=9.3),
        now_s=10.0,
        limits=engine_limits(max_sequences=2),
    )
    assert entries(SlidingServe(EXACT).plan(state)) == [("decode", 1), ("started", 50)]


class Slow:
    """An engine whose steps take three times as long as the latency model says."""

    def __init__(self, policy: SlidingServe) -> None:
        self.now_s = 0.0
        self.policy = policy

    def step(self, *, idle: bool = False) -> None:
        number = "idle" if idle else "same"
        self.policy.plan(engine_state(decoding(f"{number}{self.now_s if idle else ''}"), now_s=self.now_s))
        self.now_s += 0.033


def test_batch_times_are_learned_from_the_time_between_plans() -> None:
    slow = Slow(SlidingServe())
    for _ in range(MIN_SAMPLES + 1):
        slow.step()
    fidelity = slow.policy.predictor.fidelity()[Scenario.DECODE]
    assert fidelity.batches == MIN_SAMPLES
    assert fidelity.mae_s == pytest.approx(0.022)
    for _ in range(MIN_SAMPLES * 10):
        slow.step()
    assert slow.policy.predictor.fidelity()[Scenario.DECODE].mae_s < 0.0025


def test_time_in_which_the_engine_may_have_been_idle_is_not_learned() -> None:
    idle = Slow(SlidingServe())
    for _ in range(10):
        idle.step(idle=True)
    assert idle.policy.predictor.fidelity() == {}


def test_its_predictor_is_exact_on_an_engine_that_runs() -> None:
    policy = SlidingServe()
    replica = Replica(policy=policy, policy_name="tested", limits=engine_limits(blocks=28_000), latency=H100_LLAMA_8B)
    arrivals = [
        Arrival(
            id=f"r{number}",
            arrival_s=number / 20,
            terms=service_terms(),
            prompt_tokens=200 + 211 * (number % 7),
            output_tokens=20 + number % 9,
        )
        for number in range(200)
    ]
    outcome = drive(replica, arrivals)
    assert outcome.tdg_ratio() == 1.0
    fidelity = policy.predictor.fidelity()
    assert fidelity[Scenario.MIXED_LARGE].r2 > 0.99
    assert all(figures.mae_s < 0.5e-3 for figures in fidelity.values())


@pytest.mark.parametrize(
    ("option", "value"),
    [("safety", 0.0), ("least_tokens", 0), ("grid_tokens", 0), ("aging_s", -1.0), ("urgent_share", -0.1)],
)
def test_options_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(PolicyError, match=f"{option} must be .*, got {value}"):
        make_policy("sliding-serve", {option: value})
