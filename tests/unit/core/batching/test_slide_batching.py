"""`slide-batching` by hand-worked examples: a step costs 10 ms and 1 ms per token unless said otherwise."""

import msgspec
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
from proserve_core.batching import BatchPlan, EngineState, Reason, RequestState
from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.slide_batching import DeadlineRule, SlideBatching, SlideOptions, StarvationRule
from proserve_core.replica import Replica

ALWAYS_URGENT = 1e6


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


def ids(plan: BatchPlan) -> list[str]:
    return [entry.id for entry in plan.entries]


def plan(options: SlideOptions, *requests: RequestState, now_s: float = 0.0) -> BatchPlan:
    return SlideBatching(options).plan(engine_state(*requests, now_s=now_s))


def test_at_low_load_the_earlier_deadline_goes_first_whatever_the_weight() -> None:
    # 40 ms of work in all, half a second to the first deadline: everybody is normal.
    result = plan(
        SlideOptions(),
        waiting("heavy", 20, terms=service_terms(2.0, ttft_s=1.0)),
        waiting("early", 20, terms=service_terms(1.0, ttft_s=0.5)),
    )
    assert entries(result) == [("early", 20), ("heavy", 20)]


def test_at_high_load_density_decides_and_the_last_prompt_is_cut_to_the_budget() -> None:
    # est 100, 400 and 150 ms, budget 500 ms, PHI = 650 * 500/490 = 663 ms: all urgent.
    # Densities 10, 5 and 13.3 per second; 10 + 150 + 100 ms leave 240 tokens.
    half_second = {"ttft_s": 0.5}
    result = plan(
        SlideOptions(),
        waiting("light", 100, terms=service_terms(1.0, **half_second)),
        waiting("long", 400, terms=service_terms(2.0, **half_second)),
        waiting("dense", 150, terms=service_terms(2.0, **half_second)),
    )
    assert ids(result) == ["dense", "light", "long"]
    assert result.entries[2].tokens in (239, 240)
    assert result.predicted_s == pytest.approx(0.5, abs=0.0011)


def test_the_boundary_slides_with_urgency() -> None:
    requests = (
        waiting("light", 100, terms=service_terms(1.0, ttft_s=0.50)),
        waiting("heavy", 100, terms=service_terms(9.0, ttft_s=0.55)),
    )
    # PHI = 200 * 500/490 = 204 ms, below both deadlines.
    assert ids(plan(SlideOptions(urgency=1.0), *requests)) == ["light", "heavy"]
    assert ids(plan(SlideOptions(urgency=3.0), *requests)) == ["heavy", "light"]


def test_missed_deadlines_do_not_shorten_the_step() -> None:
    # The late decode does not count; the other's deadline in 300 ms does: 10 + 2 decodes + 288 tokens.
    result = plan(
        SlideOptions(),
        decoding("late", arrival_s=0.0),
        decoding("ahead", arrival_s=8.25),
        prefilling("prompt", 2000, 1000, arrival_s=9.0),
        now_s=9.0,
    )
    assert dict(entries(result))["prompt"] in (287, 288)


def test_when_every_deadline_is_missed_the_floor_is_the_budget() -> None:
    # 0.65 * 50 ms = 32.5 ms: 10 + 1 for the decode leave 21 tokens.
    requests = (decoding("late"), waiting("prompt", 1000))
    result = plan(SlideOptions(min_chunk=1), *requests, now_s=100.0)
    assert entries(result) == [("late", 1), ("prompt", 21)]


def test_crumbs_of_a_prompt_are_not_started_but_its_end_is_taken() -> None:
    late = decoding("late")
    crumbs = plan(SlideOptions(), late, waiting("prompt", 1000), now_s=100.0)
    assert entries(crumbs) == [("late", 1)]
    assert crumbs.reason("prompt") is Reason.STEP_TIME
    end = plan(SlideOptions(), late, prefilling("prompt", 1000, 990), now_s=100.0)
    assert entries(end) == [("late", 1), ("prompt", 10)]


def test_deadlines_count_from_arrival_or_from_the_real_first_token() -> None:
    # First token 4 s late: the fixed deadline is lost (floor: 32.5 ms), the other is 40 ms away.
    requests = (
        decoding("late", arrival_s=0.0, first_token_s=5.0),
        waiting("prompt", 1000, arrival_s=0.0),
    )
    fixed = plan(SlideOptions(min_chunk=1), *requests, now_s=5.01)
    moved = plan(SlideOptions(min_chunk=1, deadline=DeadlineRule.FIRST_TOKEN), *requests, now_s=5.01)
    assert dict(entries(fixed))["prompt"] == 21
    assert dict(entries(moved))["prompt"] in (28, 29)


def test_urgent_decodes_come_before_denser_urgent_prompts_unless_switched_off() -> None:
    # Densities: decode 1 / 1 ms, prompt 10 / 5 ms.
    requests = (waiting("prompt", 5, terms=service_terms(10.0)), decoding("decode"))
    assert ids(plan(SlideOptions(urgency=ALWAYS_URGENT), *requests)) == ["decode", "prompt"]
    one_list = SlideOptions(urgency=ALWAYS_URGENT, decodes_first=False)
    assert ids(plan(one_list, *requests)) == ["prompt", "decode"]


@pytest.mark.parametrize("resident", [False, True])
def test_starvation_by_lateness_puts_a_prompt_late_by_its_ttft_before_denser_prompts(resident: bool) -> None:
    starved = prefilling("starved", 200, 0, arrival_s=7.5) if resident else waiting("starved", 200, arrival_s=7.5)
    requests = (starved, waiting("dense", 20, arrival_s=9.9), decoding("decode", arrival_s=8.0))
    off = SlideOptions(urgency=ALWAYS_URGENT, min_chunk=1)
    assert ids(plan(off, *requests, now_s=10.0)) == ["decode", "dense", "starved"]
    lateness = msgspec.structs.replace(off, starvation=StarvationRule.LATENESS)
    assert ids(plan(lateness, *requests, now_s=10.0)) == ["decode", "starved", "dense"]
    later = msgspec.structs.replace(lateness, starvation_slos=2.0)
    assert ids(plan(later, *requests, now_s=10.0)) == ["decode", "dense", "starved"]


@pytest.mark.parametrize("resident", [False, True])
def test_starvation_by_wait_puts_an_old_prompt_before_everybody(resident: bool) -> None:
    starved = prefilling("starved", 20, 0, arrival_s=6.0) if resident else waiting("starved", 20, arrival_s=6.0)
    requests = (starved, waiting("dense", 5, arrival_s=9.9), decoding("decode", arrival_s=8.0))
    options = SlideOptions(urgency=ALWAYS_URGENT, starvation=StarvationRule.WAIT, starvation_wait_s=3.0)
    assert ids(plan(options, *requests, now_s=10.0))[0] == "starved"
    assert ids(plan(msgspec.structs.replace(options, starvation_wait_s=5.0), *requests, now_s=10.0))[0] == "decode"


def test_skipping_lets_decodes_run_behind_a_prompt_that_does_not_fit() -> None:
    # 40 ms to the only deadline in reach leave 29 tokens for the prompt: too few to start it. `ahead` is normal.
    requests = (
        decoding("first", arrival_s=0.0),
        waiting("prompt", 2000, arrival_s=50.0, terms=service_terms(9.0)),
        decoding("ahead", arrival_s=98.99),
    )
    stop, skip = (plan(SlideOptions(skip=skip, urgency=1e-3), *requests, now_s=100.0) for skip in (False, True))
    assert ids(stop) == ["first"]
    assert stop.reason("ahead") is Reason.STEP_TIME
    assert ids(skip) == ["first", "ahead"]


def test_a_dense_prompt_takes_the_blocks_of_the_last_in_order() -> None:
    limits = engine_limits(blocks=8)
    state = engine_state(
        decoding("dense", prompt_tokens=40, terms=service_terms(2.0)),
        decoding("last", prompt_tokens=40, terms=service_terms(1.0)),
        waiting("prompt", 60, terms=service_terms(9.0)),
        limits=limits,
    )
    result = SlideBatching(SlideOptions(urgency=ALWAYS_URGENT, decodes_first=False)).plan(state)
    # 60 / 60 ms = 150 per second for the prompt; decodes have 2000 and 1000: it is behind both and takes nobody's.
    assert (ids(result), result.preempt) == (["dense", "last"], ())
    dearer = engine_state(*state.requests[:2], waiting("prompt", 60, terms=service_terms(90.0)), limits=limits)
    result = SlideBatching(SlideOptions(urgency=ALWAYS_URGENT, decodes_first=False)).plan(dearer)
    assert (ids(result), result.preempt) == (["dense", "prompt"], ("last",))


def test_plans_do_not_depend_on_what_was_planned_before() -> None:
    """The rows kept of waiting requests are never stale, however requests come, run, are preempted and go."""

    class Watched:
        def __init__(self, options: SlideOptions) -> None:
            self.options = options
            self.veteran = SlideBatching(options)

        def plan(self, state: EngineState) -> BatchPlan:
            result = self.veteran.plan(state)
            assert result == SlideBatching(self.options).plan(state)
            return result

    for starvation in StarvationRule:
        options = SlideOptions(starvation=starvation, starvation_wait_s=0.5, deadline=DeadlineRule.FIRST_TOKEN)
        replica = replica_with(Watched(options), blocks=60)
        drive(replica, workload(requests=30, per_second=40.0, prompt=150, output=30))
        assert replica.preemptions > 0


def test_a_cached_prefix_that_becomes_known_counts() -> None:
    policy = SlideBatching(SlideOptions(urgency=ALWAYS_URGENT))
    requests = [waiting("a", 200), waiting("b", 210)]
    assert ids(policy.plan(engine_state(*requests))) == ["a", "b"]
    requests[1].computed_tokens = 160
    assert ids(policy.plan(engine_state(*requests))) == ["b", "a"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("urgency", -1.0),
        ("budget_floor", 0.0),
        ("starvation_slos", -0.1),
        ("starvation_wait_s", -1.0),
        ("min_chunk", 0),
    ],
)
def test_options_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"{field} must be .*, got {value}"):
        msgspec.convert({field: value}, SlideOptions)


def workload(*, requests: int, per_second: float, prompt: int, output: int) -> list[Arrival]:
    heavy, light = service_terms(2.0), service_terms(1.0)
    return [
        Arrival(
            id=f"r{number}",
            arrival_s=number / per_second,
            terms=heavy if number % 2 else light,
            prompt_tokens=prompt + 37 * (number % 5),
            output_tokens=output + number % 7,
        )
        for number in range(requests)
    ]


def replica_with(policy: BatchingPolicy, blocks: int = 28_000) -> Replica:
    return Replica(
        policy=policy,
        policy_name="tested",
        limits=engine_limits(blocks=blocks, max_sequences=256),
        latency=H100_LLAMA_8B,
    )


def test_under_overload_it_earns_far_more_than_fcfs_and_tells_the_classes_apart() -> None:
    arrivals = workload(requests=300, per_second=90.0, prompt=1000, output=60)
    fcfs, slide = (drive(replica_with(policy), arrivals) for policy in (Fcfs(), SlideBatching()))
    assert slide.tdg_ratio() > 1.5 * fcfs.tdg_ratio()
    assert slide.tdg_ratio(lambda arrival: arrival.terms.weight == 2.0) > slide.tdg_ratio(
        lambda arrival: arrival.terms.weight == 1.0
    )


def test_at_low_load_it_equals_fcfs() -> None:
    arrivals = workload(requests=60, per_second=5.0, prompt=500, output=60)
    for policy in (Fcfs(), SlideBatching()):
        assert drive(replica_with(policy), arrivals).tdg_ratio() == 1.0
