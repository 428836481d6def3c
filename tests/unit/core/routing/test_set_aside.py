"""Requests that can bring nothing any more are served in turns by class and then tenant."""

from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms
from fleet_builders import routing_request
from proserve_core.routing import RoutingRequest
from proserve_core.routing.set_aside import SetAside

LOW, HIGH = service_terms(1.0), service_terms(4.0)


def request(name: str, tenant: str = "a", *, tokens: int = 100, high: bool = False) -> RoutingRequest:
    return routing_request(tokens, name=name, tenant=tenant, terms=HIGH if high else LOW, expected_output_tokens=0.0)


def aside(*requests: RoutingRequest) -> SetAside:
    found = SetAside()
    for each in requests:
        found.add(each)
    return found


def served(waiting: SetAside) -> list[str]:
    names = []
    while len(waiting):
        names.append(waiting.next())
        waiting.sent(names[-1])
        assert waiting.remove(names[-1].id)
    return [each.id for each in names]


def test_one_tenant_of_one_class_is_served_in_the_order_in_which_its_requests_came() -> None:
    assert served(aside(*[request(f"r{number}", tokens=500 - number) for number in range(5)])) == [
        f"r{number}" for number in range(5)
    ]


def test_one_tenant_is_served_in_that_order_over_all_its_classes() -> None:
    assert served(aside(request("a0"), request("a1"), request("a2", high=True), request("a3"))) == [
        "a0", "a1", "a2", "a3",
    ]  # fmt: skip


def test_classes_of_several_tenants_take_turns() -> None:
    low = [request(f"low-{number}", "a") for number in range(3)]
    high = [request(f"high-{number}", "b", high=True) for number in range(2)]
    order = [name.split("-")[0] for name in served(aside(*low, *high))]
    assert set(order[:2]) == set(order[2:4]) == {"low", "high"}


def test_tenants_of_a_class_take_turns_by_tokens() -> None:
    flood = [request(f"flood-{number}", "a", tokens=200) for number in range(4)]
    modest = [request(f"modest-{number}", "b") for number in range(3)]
    assert served(aside(*flood, *modest)) == [
        "flood-0", "modest-0", "modest-1", "flood-1", "modest-2", "flood-2", "flood-3",
    ]  # fmt: skip


def test_a_request_that_leaves_takes_no_turn() -> None:
    waiting = aside(request("a0", "a"), request("a1", "a"), request("b0", "b"))
    assert waiting.remove("a0")
    assert not waiting.remove("a0")
    assert served(waiting) == ["a1", "b0"]


def test_weakest_is_the_last_of_the_lightest_class() -> None:
    waiting = aside(request("low-0"), request("low-1"), request("high-0", high=True))
    assert waiting.weakest().id == "low-1"
    assert waiting.weakest_of(HIGH.priority_class, "a") == request("high-0", high=True)
    assert waiting.weakest_of(HIGH.priority_class, "b") is None


@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["add", "serve", "leave"]), st.sampled_from("abc"), st.booleans(), st.integers(1, 900)
        ),
        max_size=60,
    )
)
def test_whoever_comes_and_goes_each_is_served_once_and_nothing_is_kept(
    changes: list[tuple[str, str, bool, int]],
) -> None:
    waiting, here = SetAside(), set[str]()
    for number, (change, tenant, high, tokens) in enumerate(changes):
        if change == "add":
            waiting.add(request(f"r{number}", tenant, tokens=tokens, high=high))
            here.add(f"r{number}")
        elif here and change == "serve":
            chosen = waiting.next()
            waiting.sent(chosen)
            assert waiting.remove(chosen.id)
            here.remove(chosen.id)
        elif here:
            here.remove(gone := min(here))
            assert waiting.remove(gone)
        assert set(waiting) == here
    assert set(served(waiting)) == here
    assert len(waiting) == 0
