"""`qoserve` by hand-worked examples: a step costs 10 ms and 1 ms per token, TTFT 1 s, TPOT 50 ms."""

import msgspec
import pytest

from engine_builders import decoding, engine_limits, engine_state, prefilling, service_terms, waiting
from proserve_core.batching import BatchPlan, EngineState, RequestState
from proserve_core.batching.qoserve import DecodeDeadline, QoServe, QoServeOptions
from proserve_core.batching.registry import PolicyError, make_policy


def state_of(*requests: RequestState, now_s: float = 0.0, blocks: int = 4000) -> EngineState:
    """Blocks for 64,000 tokens: not scarce."""
    return engine_state(*requests, now_s=now_s, limits=engine_limits(blocks=blocks))


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


@pytest.mark.parametrize(
    ("slack_s", "tokens"),
    [
        (1.0, 768),  # 1.2 * 778 ms fit, 1.2 * 1034 ms do not
        (0.934, 768),
        (0.93, 512),
        (0.05, 128),  # not even 128 fit
        (-3.0, 128),
        (9.0, 2552),
    ],
)
def test_the_step_is_the_largest_of_the_grid_that_fits_the_tightest_slack(slack_s: float, tokens: int) -> None:
    # With one token emitted, the next one of a decode is due 1 + 0.05 s after its arrival.
    state = state_of(
        decoding("due", arrival_s=20.0 + slack_s - 1.05),
        decoding("relaxed", arrival_s=29.0),
        prefilling("prompt", 5000, 100, arrival_s=20.0),
        now_s=20.0,
    )
    assert entries(QoServe().plan(state)) == [("due", 1), ("relaxed", 1), ("prompt", tokens - 2)]


def test_without_decodes_the_step_is_the_largest() -> None:
    state = state_of(prefilling("prompt", 5000, 100))
    assert entries(QoServe().plan(state)) == [("prompt", 2552)]


def test_all_decodes_run_even_when_they_are_more_than_the_step() -> None:
    late = [decoding(f"d{number}", arrival_s=0.0) for number in range(200)]
    state = engine_state(*late, waiting("w", 10), now_s=9.0, limits=engine_limits(blocks=4000, max_sequences=256))
    assert [name for name, _ in entries(QoServe().plan(state))] == [f"d{number}" for number in range(200)]


def test_scarce_blocks_keep_steps_at_512_tokens() -> None:
    # 1940 free blocks of 16 hold 31,040 tokens, 2120 hold 33,920.
    prompt = prefilling("prompt", 4000, 960)
    assert entries(QoServe().plan(state_of(prompt, blocks=2000))) == [("prompt", 512)]
    assert entries(QoServe().plan(state_of(prompt, blocks=2180))) == [("prompt", 2552)]


def test_a_weighs_tokens_against_deadlines() -> None:
    # Keys: older 1 + 0.008 * 300 = 3.4, newer 0.5 + 1 + 0.008 * 200 = 3.1. With a = 0 the older is first.
    requests = (waiting("older", 300, arrival_s=0.0), waiting("newer", 200, arrival_s=0.5))
    assert entries(QoServe().plan(state_of(*requests, now_s=0.5)))[0] == ("newer", 200)
    assert entries(QoServe(QoServeOptions(a=0.0)).plan(state_of(*requests, now_s=0.5)))[0] == ("older", 300)


def test_a_prompt_that_can_not_be_in_time_any_more_goes_behind_all_others_for_good() -> None:
    # 256 tokens in 266 ms: 962 tokens/s. At 0.9 s the short one would need 0.104 s.
    policy = QoServe()
    lost, other = waiting("lost", 100, arrival_s=0.0), waiting("other", 900, arrival_s=0.89)
    state = state_of(lost, other, now_s=0.9)
    assert entries(policy.plan(state)) == [("other", 900), ("lost", 100)]
    never = QoServe(QoServeOptions(relegation=False))
    assert entries(never.plan(state_of(lost, other, now_s=0.9))) == [("lost", 100), ("other", 900)]
    # Asked later about an earlier moment it would be in time, and stays behind.
    assert entries(policy.plan(msgspec.structs.replace(state, now_s=0.8)))[0] == ("other", 900)


def test_a_started_prompt_is_not_relegated() -> None:
    started, other = prefilling("started", 200, 100, arrival_s=0.0), waiting("other", 500, arrival_s=4.9)
    assert entries(QoServe().plan(state_of(started, other, now_s=5.0))) == [("started", 100), ("other", 500)]


def test_throughput_is_learned_from_steps() -> None:
    # A late decode keeps steps at 128 tokens in 138 ms: 928 tokens/s, where a fresh policy assumes 962.
    veteran, now_s = QoServe(), 100.0
    for _ in range(1000):
        now_s += 0.138
        veteran.plan(state_of(decoding("late"), prefilling("endless", 50_000, 100), now_s=now_s))
    requests = (waiting("newer", 10, arrival_s=now_s), waiting("border", 950, arrival_s=now_s))
    in_time = service_terms(ttft_s=50.0)
    relaxed = waiting("relaxed", 1000, arrival_s=now_s, terms=in_time)
    assert [name for name, _ in entries(veteran.plan(state_of(*requests, relaxed, now_s=now_s)))] == [
        "newer",
        "relaxed",
        "border",
    ]
    assert [name for name, _ in entries(QoServe().plan(state_of(*requests, relaxed, now_s=now_s)))] == [
        "newer",
        "border",
        "relaxed",
    ]


def test_deadlines_move_with_a_late_first_token_unless_they_are_fixed() -> None:
    # First token 4 s late at 5.0, two emitted: due at 5.0 + 2 * 0.05 = 5.10, one TPOT later in the artifact, or at 1.1
    # by TDG.
    late = decoding("late", emitted=2, arrival_s=0.0, first_token_s=5.0)
    prompt = prefilling("prompt", 5000, 100, arrival_s=4.0)
    # 256 tokens in 0.5 * 266 = 133 ms fit into 140 ms, not into 90.
    for deadline, now_s, tokens in (
        (DecodeDeadline.MOVED, 4.96, 256),
        (DecodeDeadline.MOVED, 5.01, 128),
        (DecodeDeadline.FIRST_TOKEN, 5.01, 256),
    ):
        moved = QoServeOptions(deadline=deadline, safety=0.5)
        plan = QoServe(moved).plan(state_of(late, prompt, now_s=now_s))
        assert entries(plan) == [("late", 1), ("prompt", tokens - 1)]
    fixed = QoServeOptions(deadline=DecodeDeadline.FIXED, safety=0.5)
    assert entries(QoServe(fixed).plan(state_of(late, prompt, now_s=5.01))) == [("late", 1), ("prompt", 127)]


@pytest.mark.parametrize(("option", "value"), [("a", -0.1), ("safety", 0.0), ("scarce_tokens", -1)])
def test_options_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(PolicyError, match=f"{option} must be .*, got {value}"):
        make_policy("qoserve", {option: value})
