"""Slots for keys: bounded, and never taken from somebody in use."""

from proserve_core.batching.recent_slots import RecentSlots


def test_new_keys_get_new_slots_until_the_limit_and_then_that_of_the_one_not_asked_for_longest() -> None:
    slots = RecentSlots[str](2)
    assert slots.give("a") == (0, None)
    assert slots.give("b") == (1, None)
    assert slots.slot("a") == 0
    assert slots.give("c") == (1, "b")
    assert slots.slot("b") is None
    assert [key for key, _ in slots.items()] == ["a", "c"]


def test_who_is_in_use_keeps_its_slot_and_the_limit_gives_way() -> None:
    slots = RecentSlots[str](1)
    slot, _ = slots.give("a")
    slots.use(slot)
    assert slots.give("b") == (1, None)
    slots.leave(slot)
    assert slots.users(slot) == 0
    assert slots.give("c") == (0, "a")
    assert len(slots) == 2


def test_slots_in_use_are_those_with_users() -> None:
    slots = RecentSlots[str](4)
    for key in "abc":
        slots.give(key)
    slots.use(0)
    slots.use(2)
    slots.use(2)
    slots.leave(2)
    slots.leave(0)
    assert slots.in_use() == [2]
