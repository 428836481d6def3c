"""Explanations worked out by hand: 10 ms per step, 1 ms per token."""

import pytest

from engine_builders import decoding, engine_limits, engine_state, prefilling, service_terms, waiting
from proserve_core.batching import EngineState
from proserve_core.batching.explain import Decision, ExplainedStep, Explanation
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.qoserve import QoServe
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.batching.registry import make_policy
from proserve_core.batching.slide_batching import SlideBatching
from proserve_core.batching.sliding_serve import SlidingServe


def explanations(policy: BatchingPolicy, state: EngineState) -> dict[str, Explanation]:
    plan = policy.plan(state)
    step = ExplainedStep(policy, state, plan)
    return {request.id: step.explain(request) for request in state.requests}


def test_slide_batching_tells_urgent_from_normal_by_the_time_that_the_queue_takes() -> None:
    # The queue is 1 + 60 + 200 ms of work; nothing is due before 40 ms, so steps take 40 ms, 30 of them work:
    # it drains in 261 * 4/3 = 348 ms. What is due in 40 and 300 ms is urgent, what is due in 900 ms is normal.
    state = engine_state(
        decoding("decode", emitted=1, arrival_s=-1.01, terms=service_terms(2.0)),
        waiting("late", 60, arrival_s=-0.7),
        waiting("early", 200, arrival_s=-0.1),
    )
    told = explanations(SlideBatching(), state)
    assert {name: each.group for name, each in told.items()} == {
        "decode": "urgent decode", "late": "urgent", "early": "normal",
    }  # fmt: skip
    assert told["decode"].figures == pytest.approx({"slack_s": 0.04, "remaining_s": 0.04, "cost_s": 0.001})
    assert told["late"].figures == pytest.approx({"slack_s": 0.3, "remaining_s": 0.3, "cost_s": 0.06})
    assert told["early"].decision is Decision.WAITS
    assert "slack_s 0.9" in told["early"].sentence()


def test_recoverable_gain_tells_what_is_urgent_ahead_a_prompt_or_hopeless() -> None:
    state = engine_state(
        # Next token due in 50 ms, and in 2 s; TPOT 50 ms.
        decoding("due", emitted=1, arrival_s=-1.0),
        decoding("ahead", emitted=40, arrival_s=-1.0),
        waiting("prompt", 30),
        waiting("hopeless", 30, arrival_s=-1e6),
    )
    told = explanations(RecoverableGain(), state)
    assert {name: each.group for name, each in told.items()} == {
        "due": "urgent", "ahead": "ahead", "prompt": "prompt", "hopeless": "hopeless",
    }  # fmt: skip
    assert told["due"].figures["slack_s"] == pytest.approx(0.05)
    assert told["ahead"].figures["slack_s"] == pytest.approx(2.0)
    assert told["hopeless"].figures["recoverable_gain"] == 0
    assert told["prompt"].figures["recoverable_gain"] > 0
    assert told["prompt"].figures["prompt_s"] == pytest.approx(0.03)
    assert told["due"].position == 1


def test_sliding_serve_tells_the_level_of_a_prompt() -> None:
    # A step without prompts takes 11 ms with the decode, 1.1 times that by the safety factor; a window is 50 ms.
    state = engine_state(
        decoding("decode", emitted=1, arrival_s=-1.0),
        waiting("now-or-never", 30, arrival_s=-0.92),
        waiting("can-wait", 30),
        waiting("lost", 30, arrival_s=-2.0),
    )
    told = explanations(SlidingServe(), state)
    assert {name: each.group for name, each in told.items()} == {
        "decode": "decode", "now-or-never": "protected prompt", "can-wait": "normal prompt", "lost": "lost prompt",
    }  # fmt: skip
    assert told["now-or-never"].figures == pytest.approx({"slack_s": 0.08, "cost_s": 0.03})


def test_qoserve_tells_who_is_relegated_and_by_which_time_prompts_go() -> None:
    state = engine_state(waiting("long", 100, arrival_s=-0.2), waiting("missed", 10, arrival_s=-5.0))
    told = explanations(QoServe(), state)
    assert told["missed"].group == "relegated prompt"
    # Due in 0.8 s, put back by 8 ms for each of 100 tokens.
    assert told["long"].figures["ranked_by_s"] == pytest.approx(1.6)
    assert told["long"].group == "prompt"


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("fcfs", ("resident", "waiting")),
        ("sarathi", ("started prompt", "waiting prompt")),
        ("sarathi-priority", ("started prompt", "waiting prompt")),
        ("priority", ("weight 2", "weight 1")),
        ("edf", ("by deadline", "by deadline")),
        ("srpf", ("prompt", "prompt")),
        ("density", ("by density", "by density")),
        ("fair-batching", ("prompt", "prompt")),
        ("weighted-vtc", ("resident", "waiting of weight-1")),
    ],
)
def test_other_policies_tell_their_order(name: str, groups: tuple[str, str]) -> None:
    state = engine_state(prefilling("a", 60, 20, terms=service_terms(2.0)), waiting("b", 30))
    told = explanations(make_policy(name), state)
    assert (told["a"].group, told["b"].group) == groups
    assert told["a"].figures["slack_s"] == pytest.approx(1.0)


def test_victim_is_told_who_took_its_blocks() -> None:
    # Nothing is free and the heavy prompt needs 4 blocks: two decodes with 3 blocks each make room, the last one first.
    state = engine_state(
        decoding("first", prompt_tokens=40, terms=service_terms(1.0)),
        decoding("second", prompt_tokens=40, arrival_s=0.1, terms=service_terms(1.0)),
        waiting("heavy", 60, arrival_s=0.2, terms=service_terms(9.0)),
        limits=engine_limits(blocks=6),
    )
    told = explanations(make_policy("priority"), state)
    assert [told[name].decision for name in ("first", "second", "heavy")] == [
        Decision.LOSES_BLOCKS, Decision.LOSES_BLOCKS, Decision.RUNS,
    ]  # fmt: skip
    assert (told["first"].taken_by, told["second"].taken_by) == ("heavy", "heavy")
    assert "taken by heavy" in told["first"].sentence()


def test_resident_with_nobody_behind_it_gives_up_its_own_blocks() -> None:
    state = engine_state(
        decoding("first", prompt_tokens=32), decoding("last", prompt_tokens=32), limits=engine_limits(blocks=5)
    )
    # Both need a third block and one is free.
    told = explanations(make_policy("fcfs"), state)
    assert told["last"].decision is Decision.LOSES_BLOCKS
    assert told["last"].taken_by == "last"
