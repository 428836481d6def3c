"""`recoverable-gain` by hand: a step costs 10 ms and 1 ms per token, lengths are unknown (200 tokens)."""

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
from proserve_core.batching import BatchPlan, EngineLimits, Reason, RequestState
from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.length_counts import LengthCounts
from proserve_core.batching.protocol import BatchingPolicy, ObservesProgress
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.latency import LatencyModel
from proserve_core.replica import Replica


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


def ids(plan: BatchPlan) -> list[str]:
    return [entry.id for entry in plan.entries]


def plan(*requests: RequestState, now_s: float = 0.0, limits: EngineLimits | None = None) -> BatchPlan:
    return RecoverableGain().plan(engine_state(*requests, now_s=now_s, limits=limits))


def total(counts: LengthCounts) -> tuple[float, float]:
    """Outputs that have ended and tokens, as far as they are not forgotten."""
    (table,) = (table for table in counts.tables if table.key == ("all",))
    return sum(table.events), sum(table.exposure)


def test_the_heavier_of_two_equal_prompts_goes_first() -> None:
    result = plan(waiting("light", 40), waiting("heavy", 40, terms=service_terms(2.0)))
    assert entries(result) == [("heavy", 40), ("light", 40)]


def test_a_short_prompt_is_denser_than_a_heavier_very_long_one() -> None:
    # 200 tokens for 60 + 325 ms, 400 for 4000 + 325 ms; both too late for their first token without help.
    result = plan(waiting("long", 4000, terms=service_terms(2.0)), waiting("short", 60), now_s=0.95)
    assert ids(result)[0] == "short"


def test_a_decode_near_its_deadline_goes_before_any_prompt() -> None:
    result = plan(
        waiting("heavy", 50, terms=service_terms(9.0)),
        decoding("due", emitted=10, arrival_s=-1.4),
    )
    assert ids(result)[0] == "due"


def test_a_decode_far_ahead_of_its_deadline_competes_by_density() -> None:
    # The decode has 1 s in hand; the prompt is due, and its 9 * 200 tokens cost 20 ms more than 200.
    heavy = waiting("heavy", 20, arrival_s=-0.93, terms=service_terms(9.0))
    result = plan(decoding("ahead", emitted=1, arrival_s=0.0), heavy, now_s=0.05)
    assert ids(result) == ["heavy", "ahead"]


def test_who_cannot_earn_any_more_comes_last_but_runs_when_there_is_room() -> None:
    result = plan(decoding("hopeless", arrival_s=-100.0), waiting("fresh", 30))
    assert ids(result) == ["fresh", "hopeless"]


def test_a_waiting_prompt_takes_the_slot_of_the_hopeless_only() -> None:
    full = engine_limits(max_sequences=1)
    result = plan(decoding("hopeless", arrival_s=-100.0), waiting("fresh", 30), limits=full)
    assert (ids(result), result.preempt) == (["fresh"], ("hopeless",))
    result = plan(decoding("alive", arrival_s=-1.0), waiting("fresh", 30, terms=service_terms(50.0)), limits=full)
    assert (ids(result), result.preempt) == (["alive"], ())
    assert result.reason("fresh") is Reason.SEQUENCES


def test_a_decode_far_ahead_lends_its_slot_to_a_denser_prompt_that_is_due() -> None:
    full = engine_limits(max_sequences=1)
    due = waiting("due", 20, arrival_s=-0.93, terms=service_terms(9.0))
    # 20 TPOTs and 33 tokens in 73% of the time: 1.045 s.
    result = plan(decoding("ahead", arrival_s=0.1), due, now_s=0.05, limits=full)
    assert (ids(result), result.preempt) == (["due"], ("ahead",))
    result = plan(decoding("near", arrival_s=0.0), due, now_s=0.05, limits=full)
    assert (ids(result), result.preempt) == (["near"], ())
    dense = decoding("dense", arrival_s=0.1, terms=service_terms(20.0))
    assert plan(dense, due, now_s=0.05, limits=full).preempt == ()


def test_a_waiting_prompt_takes_blocks_of_the_hopeless_only() -> None:
    tight = engine_limits(blocks=3)
    result = plan(decoding("hopeless", arrival_s=-100.0), waiting("fresh", 30), limits=tight)
    assert (ids(result)[0], result.preempt) == ("fresh", ("hopeless",))
    result = plan(decoding("alive", arrival_s=-1.0), waiting("fresh", 30, terms=service_terms(50.0)), limits=tight)
    assert (ids(result), result.preempt) == (["alive"], ())


def test_when_decodes_alone_exceed_their_tpot_the_densest_run_and_the_others_pause() -> None:
    # 60 decodes take 70 ms, 0.9 of the TPOT is 45 ms: 35 entries.
    light = [decoding(f"light{number}", arrival_s=-1.0) for number in range(30)]
    heavy = [decoding(f"heavy{number}", arrival_s=-1.0, terms=service_terms(2.0)) for number in range(30)]
    result = plan(*light, *heavy)
    assert len(result.entries) == 35
    assert {name for name in ids(result) if name.startswith("heavy")} == {request.id for request in heavy}
    assert result.predicted_s == pytest.approx(0.045)


def test_a_step_too_short_for_all_is_for_those_who_are_due_when_the_others_can_wait() -> None:
    # 40 decodes take 50 ms and a chat has 40 ms for each token, but a token per TPOT for all takes only 85% of it.
    chat, batch = service_terms(1.0, ttft_s=0.5, tpot_s=0.04), service_terms(9.0, ttft_s=30.0, tpot_s=0.2)
    chats = [decoding(f"chat{number}", emitted=10, arrival_s=-0.86, terms=chat) for number in range(20)]
    batches = [decoding(f"batch{number}", emitted=10, arrival_s=-31.85, terms=batch) for number in range(20)]
    result = plan(*batches, *chats)
    assert set(ids(result)[:20]) == {request.id for request in chats}
    assert len(result.entries) == 28
    # Batch requests that are due as well go by density.
    overdue = [decoding(f"batch{number}", emitted=10, arrival_s=-31.98, terms=batch) for number in range(20)]
    assert {name[:5] for name in ids(plan(*overdue, *chats))[:20]} == {"batch"}


def test_in_saturation_prompts_get_a_small_part_of_the_step_and_only_when_clearly_denser() -> None:
    running = [decoding(f"d{number}", arrival_s=-1.0) for number in range(60)]

    def prompt_tokens(weight: float) -> int:
        prompt = prefilling("p", 100, 1, arrival_s=-0.97, terms=service_terms(weight))
        state = engine_state(*running, prompt, latency=FINE)
        return dict(entries(RecoverableGain().plan(state))).get("p", 0)

    assert prompt_tokens(1.0) == 0
    # 4.5 ms: 0.9 ms for the entry and 0.1 ms per token.
    assert prompt_tokens(9.0) in (35, 36)


FINE = LatencyModel(
    host_s=0.010,
    floor_s=0.0,
    linear_base_s=0.0,
    linear_token_s=0.0001,
    attention_s=0.0,
    context_s=0.0,
    sequence_s=0.0009,
)
"""A decode costs 1 ms, a further prompt token 0.1 ms."""


def test_deadline_order_and_long_steps_only_after_half_a_minute_of_plenty() -> None:
    def step(policy: RecoverableGain, tick: int) -> BatchPlan:
        now_s = tick * 0.5
        late_heavy = waiting(f"heavy{tick}", 60, arrival_s=now_s, terms=service_terms(9.0, ttft_s=0.52))
        early_light = waiting(f"light{tick}", 60, arrival_s=now_s, terms=service_terms(1.0, ttft_s=0.5))
        return policy.plan(engine_state(late_heavy, early_light, now_s=now_s))

    policy = RecoverableGain()
    assert ids(step(policy, 0))[0] == "heavy0"
    for tick in range(1, 80):
        last = step(policy, tick)
    assert ids(last)[0] == "light79"


def test_lengths_are_learned_from_ends_but_not_from_cut_off_outputs() -> None:
    policy = RecoverableGain()
    for number in range(200):
        policy.ended(decoding(f"r{number}", emitted=10), finished=True)
    policy.ended(decoding("cut", emitted=500), finished=False)
    counts = policy.learned()
    assert total(counts) == pytest.approx((182, 182 * 10 + 500), rel=0.01)
    again = RecoverableGain()
    again.recall(counts)
    assert again.learned() == counts


def test_tokens_of_running_requests_are_counted_once() -> None:
    policy = RecoverableGain()
    request = decoding("r", emitted=3)
    for tick in range(20):
        policy.plan(engine_state(request, now_s=tick * 0.5))
        request.emitted_tokens += 5
        request.computed_tokens += 5
    policy.ended(request, finished=True)
    assert total(policy.learned()) == pytest.approx((1, 103), rel=0.01)
    assert request.emitted_tokens == 103


def test_the_replica_tells_the_policy_of_ends() -> None:
    policy = RecoverableGain()
    assert isinstance(policy, ObservesProgress)
    assert not isinstance(Fcfs(), ObservesProgress)
    replica = Replica(policy=policy, policy_name="recoverable-gain", limits=engine_limits(), latency=H100_LLAMA_8B)
    arrivals = [
        Arrival(id=f"r{n}", arrival_s=0.1 * n, terms=service_terms(), prompt_tokens=50, output_tokens=1 + n)
        for n in range(30)
    ]
    drive(replica, arrivals)
    counts = policy.learned()
    assert total(counts) == pytest.approx((30, sum(arrival.output_tokens for arrival in arrivals)), rel=0.05)


def test_an_aborted_request_is_no_observed_length() -> None:
    policy = RecoverableGain()
    replica = Replica(policy=policy, policy_name="recoverable-gain", limits=engine_limits(), latency=H100_LLAMA_8B)
    replica.submit(request_id="a", terms=service_terms(), arrival_s=0.0, prompt_tokens=50, output_tokens=9)
    replica.begin_step(0.0)
    replica.complete_step(0.1)
    replica.abort("a")
    assert total(policy.learned()) == (0, 1)


def test_in_overload_it_earns_more_than_first_come_first_served() -> None:
    def tdg(policy: BatchingPolicy) -> float:
        replica = Replica(policy=policy, policy_name="x", limits=engine_limits(blocks=30_000), latency=H100_LLAMA_8B)
        arrivals = [
            Arrival(
                id=f"r{n}",
                arrival_s=n / 60,
                terms=service_terms(1.0 + n % 2),
                prompt_tokens=400 + 311 * n % 1900,
                output_tokens=5 + 97 * n % 300,
            )
            for n in range(300)
        ]
        return drive(replica, arrivals).tdg_ratio()

    assert tdg(RecoverableGain()) > 1.3 * tdg(Fcfs())
