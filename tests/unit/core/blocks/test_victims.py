"""Who is preempted: by hand, and against all choices on small cases."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.blocks import VictimCandidate, choose_victims, preemption_loss


def candidate(
    name: str = "a",
    *,
    blocks: int = 10,
    value: float = 100.0,
    value_back: float | None = None,
    rest_s: float = 1.0,
    return_s: float = 0.1,
) -> VictimCandidate:
    return VictimCandidate(
        request_id=name,
        blocks=blocks,
        value=value,
        value_back=value if value_back is None else value_back,
        rest_s=rest_s,
        return_s=return_s,
    )


def test_who_comes_back_costs_the_engine_time_to_bring_it_back() -> None:
    assert preemption_loss(candidate(return_s=0.2), price=50.0) == pytest.approx(10.0)


def test_what_is_late_by_then_is_lost() -> None:
    assert preemption_loss(candidate(value_back=70.0, return_s=0.2), price=50.0) == pytest.approx(40.0)


def test_who_is_not_worth_bringing_back_costs_what_it_brought_above_the_price() -> None:
    # 100 in 1 s is 100/s, the price 90/s; with 0.5 s to come back it is 67/s and not served again.
    assert preemption_loss(candidate(return_s=0.5), price=90.0) == pytest.approx(10.0)


def test_who_brings_less_than_the_price_costs_nothing() -> None:
    assert preemption_loss(candidate(value=80.0, return_s=5.0), price=90.0) == 0.0


def test_blocks_on_the_host_make_a_cheap_victim() -> None:
    on_host, nowhere = candidate("on host", return_s=0.01), candidate("nowhere", return_s=0.08)
    chosen = choose_victims([on_host, nowhere], blocks=8, price=50.0)
    assert chosen is not None
    assert chosen.request_ids == ("on host",)
    assert chosen.loss == pytest.approx(0.5)


def test_the_lighter_one_goes_first() -> None:
    heavy = candidate("heavy", value=800.0, value_back=600.0)
    light = candidate("light", value=100.0, value_back=75.0)
    chosen = choose_victims([light, heavy], blocks=5, price=10.0)
    assert chosen is not None
    assert chosen.request_ids == ("light",)


def test_equals_go_by_rank() -> None:
    chosen = choose_victims([candidate("first"), candidate("last")], blocks=5, price=10.0)
    assert chosen is not None
    assert chosen.request_ids == ("last",)


def test_one_large_victim_instead_of_many_small_ones() -> None:
    small = [candidate(f"small {i}", blocks=4, return_s=0.03) for i in range(5)]
    large = candidate("large", blocks=20, return_s=0.1)
    chosen = choose_victims([large, *small], blocks=20, price=50.0)
    assert chosen is not None
    assert chosen.request_ids == ("large",)
    assert chosen.blocks == 20


def test_who_is_superfluous_in_the_end_is_left_alone() -> None:
    small, large = candidate("small", blocks=2, return_s=0.001), candidate("large", blocks=20, return_s=0.1)
    chosen = choose_victims([small, large], blocks=10, price=50.0)
    assert chosen is not None
    assert chosen.request_ids == ("large",)


def test_too_few_blocks_altogether() -> None:
    assert choose_victims([candidate(blocks=4), candidate("b", blocks=0)], blocks=5, price=1.0) is None


def test_no_blocks_needed_no_victims() -> None:
    chosen = choose_victims([candidate()], blocks=0, price=1.0)
    assert chosen is not None
    assert chosen.request_ids == ()


CANDIDATES = st.lists(
    st.builds(
        VictimCandidate,
        request_id=st.uuids().map(str),
        blocks=st.integers(0, 30),
        value=st.floats(0, 100),
        value_back=st.floats(0, 100),
        rest_s=st.floats(0.01, 5),
        return_s=st.floats(0, 1),
    ),
    min_size=1,
    max_size=8,
)


@given(candidates=CANDIDATES, blocks=st.integers(1, 120), price=st.floats(0, 100))
def test_never_more_than_twice_the_least_loss(candidates: list[VictimCandidate], blocks: int, price: float) -> None:
    chosen = choose_victims(candidates, blocks=blocks, price=price)
    enough = [
        sum(preemption_loss(victim, price) for victim in some)
        for count in range(len(candidates) + 1)
        for some in combinations(candidates, count)
        if sum(victim.blocks for victim in some) >= blocks
    ]
    if not enough:
        assert chosen is None
        return
    assert chosen is not None
    taken = {name: victim for victim in candidates if (name := victim.request_id) in chosen.request_ids}
    assert sum(victim.blocks for victim in taken.values()) == chosen.blocks >= blocks
    assert chosen.loss <= 2 * min(enough) + 1e-9
    spare = chosen.blocks - blocks
    assert all(victim.blocks > spare for victim in taken.values())
