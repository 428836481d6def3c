"""Multi-Level Priority Sorter by hand: 1 ms per prompt token, 11 ms for the decodes, windows of 100 ms."""

import math

import pytest

from engine_builders import engine_state, prefilling, service_terms, waiting
from proserve_core.batching import RequestState
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.sliding_serve.priority_sorter import (
    Horizon,
    Level,
    Ranked,
    SortedPrompts,
)


def sort(*prompts: RequestState, aging_s: float = math.inf, urgent_share: float = 0.5) -> SortedPrompts:
    return SortedPrompts(
        RequestColumns(engine_state(*prompts, now_s=10.0)),
        Horizon(now_s=10.0, base_s=0.011, window_s=0.1, aging_s=aging_s, urgent_share=urgent_share),
    )


def ranked(*prompts: RequestState, aging_s: float = math.inf, urgent_share: float = 0.5) -> list[Ranked]:
    return list(sort(*prompts, aging_s=aging_s, urgent_share=urgent_share))


def with_slack(name: str, tokens: int, slack_s: float) -> RequestState:
    return waiting(name, tokens, arrival_s=9.0 + slack_s)


def levels(items: list[Ranked]) -> list[tuple[str, Level]]:
    return [(item.request.id, item.level) for item in items]


def test_protected_before_normal_before_lost() -> None:
    # Spare time after 11 ms and the prompt itself: -61, 39 and 789 ms; one window is 100 ms.
    items = ranked(with_slack("lost", 100, 0.05), with_slack("normal", 100, 0.9), with_slack("protected", 150, 0.2))
    assert levels(items) == [("protected", Level.PROTECTED), ("normal", Level.NORMAL), ("lost", Level.LOST)]
    assert [round(item.work_s, 6) for item in items] == [0.15, 0.1, 0.1]
    assert [round(item.slack_s, 6) for item in items] == [0.2, 0.9, 0.05]


def test_the_borders_of_a_level() -> None:
    # Spare 99 and 101 ms; -1 and 1 ms.
    assert levels(ranked(with_slack("in", 100, 0.210)))[0][1] is Level.PROTECTED
    assert levels(ranked(with_slack("out", 100, 0.212)))[0][1] is Level.NORMAL
    assert levels(ranked(with_slack("late", 100, 0.110)))[0][1] is Level.LOST
    assert levels(ranked(with_slack("just", 100, 0.112)))[0][1] is Level.PROTECTED


def test_within_a_level_urgent_prompts_come_first_then_less_work() -> None:
    # Work over slack: 0.35 / 0.7 = 0.5, 0.6 / 0.9 = 0.67, 0.1 / 0.9 = 0.11, 0.3 / 0.9 = 0.33.
    prompts = (
        with_slack("long", 300, 0.9),
        with_slack("short", 100, 0.9),
        with_slack("urgent-longer", 600, 0.9),
        with_slack("urgent", 350, 0.7),
    )
    assert [item.request.id for item in ranked(*prompts)] == ["urgent", "urgent-longer", "short", "long"]
    never = ranked(*prompts, urgent_share=math.inf)
    assert [item.request.id for item in never] == ["short", "long", "urgent", "urgent-longer"]
    lost = ranked(waiting("large", 90, arrival_s=1.0), waiting("small", 20, arrival_s=1.0))
    assert [item.request.id for item in lost] == ["small", "large"]


def test_equal_prompts_are_served_in_the_order_in_which_they_came() -> None:
    same = service_terms(ttft_s=0.5), service_terms(ttft_s=0.4)
    items = ranked(
        waiting("earlier", 50, arrival_s=9.7, terms=same[0]), waiting("later", 50, arrival_s=9.8, terms=same[1])
    )
    assert [item.request.id for item in items] == ["earlier", "later"]


def test_only_the_rest_of_a_started_prompt_counts() -> None:
    items = ranked(prefilling("started", 500, 450, arrival_s=9.3))
    assert round(items[0].work_s, 6) == 0.05


def test_a_lost_prompt_counts_as_normal_once_it_is_old() -> None:
    old = waiting("old", 100, arrival_s=3.0)
    assert levels(ranked(old)) == [("old", Level.LOST)]
    assert levels(ranked(old, aging_s=6.0)) == [("old", Level.NORMAL)]
    assert levels(ranked(old, aging_s=8.0)) == [("old", Level.LOST)]


def test_the_order_may_be_read_in_parts_and_again() -> None:
    # Protected, protected and resident, normal.
    prompts = sort(
        with_slack("normal", 100, 0.9), prefilling("started", 200, 50, arrival_s=9.2), with_slack("at-risk", 100, 0.2)
    )
    assert [item.request.id for item in prompts.first(1)] == ["at-risk"]
    assert [item.request.id for item in prompts.protected()] == ["at-risk", "started"]
    assert [item.request.id for item in prompts] == ["at-risk", "started", "normal"]
    assert [request.id for request in prompts.residents()] == ["started"]
    assert prompts.least_slack_s(worst=Level.PROTECTED) == pytest.approx(0.2)
    assert sort().least_slack_s(worst=Level.LOST) == math.inf
