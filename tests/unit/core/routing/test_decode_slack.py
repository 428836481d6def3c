"""Prompts wait for decodes that they would make late, as long as waiting costs them less."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms
from fleet_builders import bind_all, capacity, decode_row, engine_view, routing_request, sent
from proserve_core.routing import EngineView, FleetView
from proserve_core.routing.decode_slack import lost_at_once
from proserve_core.routing.fleet_outlook import FleetOutlook
from proserve_core.routing.late_gain import LateGain
from proserve_core.routing.outlook import EngineOutlook

URGENT_S = 1.0
"""TTFT of requests here."""


def stock(*due_s: float, policy: str = "fcfs", name: str = "x") -> EngineView:
    """An engine with a decode for each of these deadlines; a step with n of them takes n ms."""
    rows = [decode_row(10 + row, due_s=due) for row, due in enumerate(due_s)]
    return engine_view(name, capacity(*rows, policy=policy))


def outlook(view: EngineView, now_s: float = 0.0) -> EngineOutlook:
    fleet = FleetOutlook()
    fleet.refresh(FleetView(now_s=now_s, engines=[view]))
    return fleet.engines[0]


def lost(view: EngineView, prefill_s: float, now_s: float = 0.0) -> float:
    return lost_at_once(outlook(view, now_s), prefill_s, now_s)


def goes(view: EngineView, tokens: int, *, weight: float = 1.0, waited_s: float = 0.0, now_s: float = 0.0) -> bool:
    """Whether a request that came `waited_s` before now, and whose prompt takes a ms per token, is sent now."""
    room = LateGain()
    terms = service_terms(weight, ttft_s=URGENT_S)
    room.arrived(routing_request(tokens, name="r", arrival_s=now_s - waited_s, terms=terms))
    return bool(bind_all(room, [view], now_s=now_s))


def test_decodes_that_are_ahead_by_a_prompt_lose_nothing_to_it() -> None:
    assert lost(stock(0.5), 0.4) == 0.0


def test_late_decode_misses_tokens_until_it_has_caught_up() -> None:
    """Late by 0.3 s, and 49 ms ahead with each token: it misses 1 + 6 of the 128 that are expected of a stranger."""
    assert lost(stock(0.1), 0.4) == pytest.approx(128 * (1 - np.exp(-7 / 128)))


def test_decode_that_is_late_already_loses_as_much_more_as_the_prompt_takes() -> None:
    """1 + 20 tokens with it, 1 + 10 without, at 49 ms a token."""
    assert lost(stock(-0.5), 0.5) == pytest.approx(128 * (np.exp(-11 / 128) - np.exp(-21 / 128)))


def test_decodes_get_ahead_as_time_passes_and_fall_behind_by_prompts_sent() -> None:
    """In 20 ms a decode alone gets 20 tokens, which is a second; a prompt of 0.9 s on its way takes most of that."""
    assert lost(stock(0.05), 0.4) > 0
    assert lost(stock(0.05), 0.4, now_s=0.02) == 0.0
    entry = sent(routing_request(900, name="before"), at_s=0.0)
    busy = engine_view("x", capacity(decode_row(10), policy="fcfs"), entry)
    assert lost(busy, 0.4, now_s=0.0) > 0


def test_prompts_of_engines_that_rank_make_nobody_wait() -> None:
    assert lost(stock(-0.5, policy="recoverable-gain"), 0.5) == 0.0
    assert goes(stock(-0.5, -0.5, policy="recoverable-gain"), 250)


def test_prompt_waits_for_decodes_that_it_would_make_late() -> None:
    """25 of them are ahead by two TPOTs; 0.25 s later they would lose nothing."""
    assert not goes(stock(*[0.1] * 25), 250)
    assert goes(stock(*[0.3] * 25), 250)


def test_prompt_that_loses_more_by_waiting_goes() -> None:
    """20 decodes miss two tokens each, one of it is worth 100 of them; all its slack is used up."""
    assert not goes(stock(*[0.2] * 20), 250, weight=100.0)
    assert goes(stock(*[0.2] * 20), 250, weight=100.0, waited_s=0.751)
    assert not goes(stock(*[0.2] * 20), 250, weight=1.0, waited_s=0.751)


def test_engine_whose_decodes_are_ahead_is_preferred() -> None:
    room = LateGain()
    room.arrived(routing_request(200, name="r", terms=service_terms(20.0, ttft_s=0.2)))
    behind = engine_view("a", capacity(decode_row(10, due_s=0.1), policy="fcfs"))
    ahead = engine_view("b", capacity(decode_row(10, due_s=0.5), policy="fcfs"))
    assert [item.decision.engine for item in bind_all(room, [behind, ahead])] == ["b"]


def test_request_that_is_too_late_waits_until_it_takes_no_token_from_anybody() -> None:
    assert not goes(stock(0.1), 400, waited_s=1000.0)
    assert goes(stock(0.5), 400, waited_s=1000.0)


def test_engine_that_publishes_nothing_is_judged_by_the_tokens_that_passed() -> None:
    """The next token of a request that came at 0 is due at 1.45 s."""
    entry = sent(routing_request(10, name="own", terms=service_terms(ttft_s=1.0)), emitted=10)
    view = engine_view("x", None, entry)
    assert lost(view, 0.4, now_s=1.0) == 0.0
    assert lost(view, 0.5, now_s=1.0) > 0


def test_answers_whose_tokens_are_not_seen_hold_nothing_up() -> None:
    entry = sent(routing_request(10, name="own"))
    entry.begun_s = 0.0
    assert lost(engine_view("x", None, entry), 5.0, now_s=10.0) == 0.0


@given(
    due_s=st.lists(st.floats(-2.0, 5.0), min_size=1, max_size=20),
    prefill_s=st.floats(0.0, 5.0),
    longer_s=st.floats(0.0, 5.0),
)
def test_longer_prompts_never_take_less(due_s: list[float], prefill_s: float, longer_s: float) -> None:
    view = stock(*due_s)
    assert 0 <= lost(view, prefill_s) <= lost(view, prefill_s + longer_s) + 1e-9


@given(due_s=st.lists(st.floats(-1.0, 0.5), max_size=10), tokens=st.integers(1, 290))
def test_request_waits_only_for_decodes_that_would_lose(due_s: list[float], tokens: int) -> None:
    view = stock(*due_s)
    assert lost(view, tokens / 1000) > 0 or goes(view, tokens)


@pytest.mark.parametrize("engines", [3, 40])
def test_best_of_many_engines_is_found(engines: int) -> None:
    """A few with the most slack are looked at closely; on this one the request loses more by waiting."""
    room = LateGain()
    room.arrived(routing_request(250, name="r", arrival_s=-0.751, terms=service_terms(100.0, ttft_s=URGENT_S)))
    views = [stock(*[-1.0] * 20, name=f"x{number:02}") for number in range(engines)]
    best = engines // 2
    views[best] = stock(*[0.2] * 20, name="best")
    assert [item.decision.engine for item in bind_all(room, views)] == ["best"]


def test_who_comes_later_does_not_take_the_slack_that_an_earlier_one_waits_for() -> None:
    """The light one would go if it were alone: it can't wait."""
    view = stock(*[0.2] * 20)
    light = routing_request(250, name="light", arrival_s=-0.751, terms=service_terms(90.0, ttft_s=URGENT_S))
    room = LateGain()
    room.arrived(light)
    room.arrived(routing_request(250, name="heavy", terms=service_terms(100.0, ttft_s=URGENT_S)))
    assert bind_all(room, [view]) == []
    assert room.left("heavy")
    assert [item.request.id for item in bind_all(room, [view])] == ["light"]
