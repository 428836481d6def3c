"""Who may count on how much engine time."""

import pytest

from proserve_core.admission.headroom import MEMORY_S, HeadroomBook, HeadroomUse
from proserve_core.objectives import Headroom, HeadroomMode, PriorityClass, ServiceObjectives

OBJECTIVES = ServiceObjectives(ttft_s=1.0, tpot_s=0.05)


def priority_class(
    name: str, weight: int, percent: int | None = None, mode: HeadroomMode = HeadroomMode.ENTITLEMENT
) -> PriorityClass:
    headroom = None if percent is None else Headroom(percent=percent, mode=mode)
    return PriorityClass(name=name, weight=weight, objectives=OBJECTIVES, headroom=headroom)


def book(*classes: PriorityClass, capacity: float = 1.0) -> HeadroomBook:
    made = HeadroomBook(classes)
    made.use_capacity(capacity)
    return made


def uses(book: HeadroomBook, now_s: float = 0.0) -> dict[str, HeadroomUse]:
    return {use.priority_class: use for use in book.uses(now_s)}


def test_class_is_entitled_until_its_share_is_used() -> None:
    headroom = book(priority_class("high", 2, 20), priority_class("low", 1))
    assert headroom.entitled("high", 0.2 * MEMORY_S, 0.0)
    assert not headroom.entitled("high", 0.01, 0.0)
    assert headroom.entitled("high", 0.01, 10 * MEMORY_S), "what was long ago does not count"
    assert not headroom.entitled("low", 0.01, 0.0), "a class without headroom is entitled to nothing"


def test_class_that_gets_its_share_by_its_own_worth_is_not_lifted_as_well() -> None:
    headroom = book(priority_class("high", 2, 20))
    headroom.given("high", 0.2 * MEMORY_S, 0.0, entitled=False)
    assert not headroom.entitled("high", 0.01, 0.0)


def test_entitled_request_counts_once() -> None:
    headroom = book(priority_class("high", 2, 20))
    assert headroom.entitled("high", 0.15 * MEMORY_S, 0.0)
    headroom.given("high", 0.15 * MEMORY_S, 0.0, entitled=True)
    assert headroom.entitled("high", 0.15 * MEMORY_S, 0.0)
    assert uses(headroom)["high"].used == pytest.approx(0.15)


def test_class_that_asks_steadily_for_its_share_stays_entitled() -> None:
    headroom = book(priority_class("high", 2, 50))
    # 0.04 s of work every 0.1 s are 40% of one engine.
    assert all(headroom.entitled("high", 0.04, number / 10) for number in range(300))


def test_class_that_asks_for_more_is_entitled_to_its_share_of_it() -> None:
    headroom = book(priority_class("high", 2, 40), capacity=2.0)
    # 1.6 s of work per second on two engines are twice the 40%.
    granted = [headroom.entitled("high", 0.16, number / 10) for number in range(600)]
    assert sum(granted[300:]) / 300 == pytest.approx(0.5, abs=0.05)


def test_reserve_closes_the_pool_to_lighter_classes_only() -> None:
    headroom = book(priority_class("high", 4, 30, HeadroomMode.RESERVE), priority_class("low", 1))
    assert not headroom.closed_to("low", 0.0)
    headroom.given("low", 0.71 * MEMORY_S, 0.0, entitled=False)
    assert headroom.closed_to("low", 0.0)
    assert not headroom.closed_to("high", 0.0)
    assert not headroom.closed_to("low", MEMORY_S), "it has had nothing since"
    assert not headroom.entitled("high", 0.01, 0.0), "what is kept free needs no weight"


def test_reserves_of_several_heavier_classes_add_up() -> None:
    reserve = HeadroomMode.RESERVE
    headroom = book(priority_class("a", 4, 30, reserve), priority_class("b", 2, 20, reserve), priority_class("c", 1))
    assert [headroom.kept_from(name) for name in "abc"] == pytest.approx([0.0, 0.3, 0.5])


def test_who_holds_uses_lends_and_borrows() -> None:
    headroom = book(priority_class("high", 4, 40), priority_class("mid", 2, 20), priority_class("low", 1))
    headroom.given("high", 0.1 * MEMORY_S, 0.0, entitled=False)
    headroom.given("mid", 0.3 * MEMORY_S, 0.0, entitled=False)
    headroom.given("low", 0.6 * MEMORY_S, 0.0, entitled=False)
    found = uses(headroom)
    assert found["high"].held == pytest.approx(0.4)
    assert found["high"].used == pytest.approx(0.1)
    # 0.1 + 0.6 are used beyond what is held, 0.4 of it belongs to nobody.
    assert found["high"].lent == pytest.approx(0.3)
    assert found["mid"].borrowed == pytest.approx(0.1)
    assert found["low"].borrowed == pytest.approx(0.6)
    assert found["low"].mode is None


def test_new_classes_keep_what_was_used() -> None:
    headroom = book(priority_class("high", 4, 40))
    headroom.given("high", 0.5 * MEMORY_S, 0.0, entitled=False)
    headroom.set_classes([priority_class("high", 4, 10), priority_class("new", 1, 10)])
    assert uses(headroom)["high"].used == pytest.approx(0.5)
    assert uses(headroom)["new"].used == 0
