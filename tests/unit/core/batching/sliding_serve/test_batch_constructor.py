"""BatchConstructor by hand."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms, waiting
from proserve_core.batching.sliding_serve.batch_constructor import choose, knapsack
from proserve_core.batching.sliding_serve.priority_sorter import Level, Ranked


def item(name: str, work_ms: float, *, level: Level = Level.PROTECTED, weight: float = 1.0) -> Ranked:
    return Ranked(
        request=waiting(name, 100, terms=service_terms(weight)), level=level, slack_s=1.0, work_s=work_ms / 1000
    )


def ids(items: list[Ranked] | None) -> list[str] | None:
    return None if items is None else [chosen.request.id for chosen in items]


def test_knapsack_by_hand() -> None:
    # 3 + 4 are worth 9 within 7; alone, 5 is worth most within 5; everything fits 12.
    weights, values = [3, 4, 5], [4.0, 5.0, 6.0]
    assert [knapsack(weights, values, capacity) for capacity in (7, 5, 12, 2)] == [[0, 1], [2], [0, 1, 2], []]


def test_of_equal_choices_the_earlier_items_are_taken() -> None:
    assert knapsack([2, 2, 2], [1.0, 1.0, 1.0], 4) == [0, 1]


@given(
    items=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), max_size=8),
    capacity=st.integers(1, 40),
)
def test_knapsack_equals_trying_all_subsets(items: list[tuple[int, int]], capacity: int) -> None:
    weights, values = [weight for weight, _ in items], [float(value) for _, value in items]
    taken = knapsack(weights, values, capacity)
    subsets = (subset for size in range(len(items) + 1) for subset in combinations(range(len(items)), size))
    best = max(sum(values[i] for i in s) for s in subsets if sum(weights[i] for i in s) <= capacity)
    assert sum(weights[index] for index in taken) <= capacity
    assert sum(values[index] for index in taken) == best


def test_two_short_prompts_instead_of_the_long_one_ahead_of_them() -> None:
    ranked = [item("long", 60), item("short", 50), item("other", 50)]
    assert ids(choose(ranked, capacity_s=0.1)) == ["short", "other"]


def test_a_heavy_prompt_is_worth_two_light_ones_and_more() -> None:
    ranked = [item("short", 50), item("other", 50), item("heavy", 80, weight=3.0)]
    assert ids(choose(ranked, capacity_s=0.1)) == ["heavy"]


def test_a_protected_prompt_is_worth_many_normal_ones() -> None:
    ranked = [item(f"normal{number}", 5, level=Level.NORMAL) for number in range(20)]
    assert ids(choose([*ranked, item("protected", 100)], capacity_s=0.1)) == ["protected"]


def test_the_sorters_order_stays_when_its_first_prompts_are_worth_as_much() -> None:
    assert choose([item("a", 40), item("b", 50), item("c", 30)], capacity_s=0.1) is None
    assert choose([item("a", 40)], capacity_s=0.0) is None
    assert choose([], capacity_s=1.0) is None


def test_lost_prompts_are_no_items_and_times_are_rounded_up() -> None:
    lost = [item("lost", 1, level=Level.LOST)]
    assert choose(lost, capacity_s=0.1) is None
    # 51 + 51 + 50 units: three of them fit 152 ms, though they take 149.9; in 151 ms the first two are worth as much.
    ranked = [item("a", 100), item("b", 50.2), item("c", 50.2), item("d", 49.5)]
    assert ids(choose(ranked, capacity_s=0.152)) == ["b", "c", "d"]
    assert choose(ranked, capacity_s=0.151) is None
