"""Who gives way in a full room: the tenant that holds most of its class, by places or by bytes."""

from proserve_gateway.fleet.room_shares import RoomShares, WaitingLimits

LIMITS = WaitingLimits(requests=10, body_bytes=1000)


def shares(*entered: tuple[str, int], priority_class: str = "low") -> RoomShares:
    """Requests of tenants, with bodies of so many bytes."""
    room = RoomShares(LIMITS)
    for tenant, body_bytes in entered:
        room.entered(priority_class, tenant, body_bytes)
    return room


def test_a_room_is_full_beyond_its_places_or_its_bytes() -> None:
    assert not shares(*[("a", 1)] * 10).full
    assert shares(*[("a", 1)] * 10, ("b", 1)).full
    assert not shares(("a", 1000)).full
    assert shares(("a", 1000), ("b", 1)).full


def test_the_tenant_with_the_larger_part_of_either_limit_gives_way() -> None:
    room = shares(("many", 1), ("many", 1), ("many", 1), ("large", 400), ("small", 1))
    assert room.gives_way("low", "small") == "large"
    room.left("low", "large", 400)
    assert room.gives_way("low", "small") == "many"


def test_the_tenant_of_the_weakest_request_gives_way_when_nobody_holds_more() -> None:
    room = shares(("first", 1), ("second", 1), ("third", 1))
    for tenant in ("first", "second", "third"):
        assert room.gives_way("low", tenant) == tenant


def test_only_what_is_held_in_the_same_class_counts() -> None:
    room = shares(*[("flood", 1)] * 5, priority_class="high")
    room.entered("low", "flood", 1)
    room.entered("low", "modest", 1)
    room.entered("low", "modest", 1)
    assert room.gives_way("low", "flood") == "modest"


def test_who_has_left_holds_nothing() -> None:
    room = shares(("gone", 1), ("gone", 1), ("stays", 1))
    for _ in range(2):
        room.left("low", "gone", 1)
    assert room.gives_way("low", "stays") == "stays"
    assert room._holdings == {"low": {"stays": room._holdings["low"]["stays"]}}
    room.left("low", "stays", 1)
    assert room._holdings == {}
