"""Which requests can all be in time, without the least dense ones."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.routing.accept_set import accept_set


def accepted(*requests: tuple[float, float, float]) -> list[bool]:
    work_s, due_in_s, density = np.array(requests, dtype=float).reshape(-1, 3).T
    return [bool(kept) for kept in accept_set(work_s=work_s, due_in_s=due_in_s, density=density)]


def test_all_are_accepted_when_all_fit() -> None:
    assert accepted((1, 3, 1), (1, 1, 1), (1, 2, 1)) == [True, True, True]


def test_least_dense_one_goes_when_not_all_fit() -> None:
    assert accepted((1, 2, 5), (1, 2, 1), (1, 2, 3)) == [True, False, True]


def test_one_that_cannot_be_in_time_alone_is_not_accepted() -> None:
    assert accepted((2, 1, 9), (1, 1.5, 1)) == [False, True]


def test_nothing_waits() -> None:
    assert accepted() == []


request = st.tuples(st.integers(1, 5), st.integers(0, 12), st.integers(1, 9))


def in_time(requests: list[tuple[int, int, int]]) -> bool:
    at = 0
    for work, due, _ in sorted(requests, key=lambda item: item[1]):
        at += work
        if at > due:
            return False
    return True


@given(requests=st.lists(request, max_size=8))
def test_accepted_ones_are_all_in_time(requests: list[tuple[int, int, int]]) -> None:
    mask = accepted(*requests)
    assert in_time([item for item, kept in zip(requests, mask, strict=True) if kept])


@given(requests=st.lists(st.tuples(st.just(1), st.integers(0, 6), st.integers(1, 9)), max_size=7))
def test_of_equally_long_requests_no_other_set_is_worth_more(requests: list[tuple[int, int, int]]) -> None:
    mask = accepted(*requests)
    worth = sum(density for (_, _, density), kept in zip(requests, mask, strict=True) if kept)
    best = max(
        sum(density for _, _, density in chosen)
        for size in range(len(requests) + 1)
        for chosen in combinations(requests, size)
        if in_time(list(chosen))
    )
    assert worth == best
