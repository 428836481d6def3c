"""Tenants of a class take turns by tokens."""

from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms
from fleet_builders import routing_request
from proserve_core.admission.tenant_share import TenantShare
from proserve_core.objectives import ServiceTerms
from proserve_core.routing import RoutingRequest

CLASS = service_terms(2.0)


def request(name: str, tenant: str, tokens: int = 100, terms: ServiceTerms = CLASS) -> RoutingRequest:
    return routing_request(tokens, name=name, tenant=tenant, terms=terms, expected_output_tokens=0.0)


def waiting(*requests: RoutingRequest) -> TenantShare:
    share = TenantShare()
    for each in requests:
        share.arrived(each)
    return share


def send(share: TenantShare, each: RoutingRequest) -> None:
    share.sent(each)
    share.left(each)


def order(share: TenantShare, *requests: RoutingRequest) -> list[str]:
    return [each.id for _, each in share.in_turn(requests)]


def test_one_tenant_keeps_its_order() -> None:
    requests = [request(f"a{number}", "a") for number in range(4)]
    assert order(waiting(*requests), *requests) == ["a0", "a1", "a2", "a3"]


def test_tenants_take_turns_and_each_keeps_its_own_order() -> None:
    flood = [request(f"a{number}", "a") for number in range(4)]
    few = [request(f"b{number}", "b") for number in range(2)]
    assert order(waiting(*flood, *few), *flood, *few) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_turns_are_by_tokens_and_not_by_requests() -> None:
    long, short = [request("a0", "a", 300), request("a1", "a", 300)], [request(f"b{n}", "b") for n in range(6)]
    assert order(waiting(*long, *short), *long, *short) == ["a0", "b0", "b1", "b2", "a1", "b3", "b4", "b5"]


def test_places_of_a_class_stay_its_own() -> None:
    other = service_terms(1.0)
    requests = [request("a0", "a"), request("x0", "x", terms=other), request("a1", "a"), request("b0", "b")]
    assert order(waiting(*requests), *requests) == ["a0", "x0", "b0", "a1"]
    assert [place.id for place, _ in waiting(*requests).in_turn(requests)] == ["a0", "x0", "a1", "b0"]


def test_who_was_served_waits_for_its_turn() -> None:
    first, second, other = request("a0", "a"), request("a1", "a"), request("b0", "b")
    share = waiting(first, second, other)
    send(share, first)
    assert order(share, second, other) == ["b0", "a1"]


def test_idle_tenant_gains_no_credit() -> None:
    share = waiting(request("b0", "b"), *[request(f"a{number}", "a") for number in range(30)])
    send(share, request("b0", "b"))
    for number in range(20):
        send(share, request(f"a{number}", "a"))
    # b was away while a took 2,000 tokens: it is next, but not for 1,900 tokens in a row.
    back = [request(f"b{number}", "b") for number in range(1, 4)]
    for each in back:
        share.arrived(each)
    left = [request(f"a{number}", "a") for number in range(20, 23)]
    assert order(share, *left, *back) == ["a20", "b1", "a21", "b2", "a22", "b3"]


@given(
    arrivals=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500)), min_size=1, max_size=60),
    takes=st.lists(st.booleans(), min_size=120, max_size=120),
)
def test_waiting_tenants_never_differ_by_more_than_one_request(
    arrivals: list[tuple[str, int]], takes: list[bool]
) -> None:
    """As long as both wait, whoever is served is at most one request ahead: the bound of the paper's theorem 4.4."""
    share, here = TenantShare(), []
    served: dict[str, float] = {}
    coming = [request(f"r{number}", tenant, tokens) for number, (tenant, tokens) in enumerate(arrivals)]
    for each in coming:
        share.arrived(each)
        here.append(each)
        served.setdefault(each.tenant, 0.0)
    for _ in takes:
        if len({each.tenant for each in here}) < len(served):
            break
        _, chosen = next(share.in_turn(here))
        send(share, chosen)
        here = [each for each in here if each.id != chosen.id]
        served[chosen.tenant] += chosen.prompt_tokens
        largest = max(each.prompt_tokens for each in coming)
        assert max(served.values()) - min(served.values()) <= largest


def test_memory_is_bounded_by_those_that_wait() -> None:
    share = TenantShare()
    for number in range(1000):
        share.arrived(request(f"r{number}", f"tenant-{number}"))
        send(share, request(f"r{number}", f"tenant-{number}"))
    assert vars(share) == vars(TenantShare())
