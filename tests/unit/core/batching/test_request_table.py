"""The table of an engine's requests: order of arrival, residents and waiting, hiding, room."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import decoding, waiting
from proserve_core.batching.request_table import NOTE, PROMPT, RequestTable


def ids(requests: object) -> list[str]:
    return [request.id for request in requests]  # type: ignore[attr-defined]


def test_requests_are_in_order_of_arrival_and_parted_by_residence() -> None:
    table = RequestTable([waiting("a", 10), decoding("b"), waiting("c", 10), decoding("d")])
    assert ids(table) == ["a", "b", "c", "d"]
    assert (ids(table.residents), ids(table.waiting)) == (["b", "d"], ["a", "c"])
    assert [table.at(row).id for row in table.rows()] == ["b", "d", "a", "c"]
    assert table[1].id == "b"
    assert ids(table[2:]) == ["c", "d"]


def test_admission_and_preemption_move_a_request_and_keep_its_place_in_the_order() -> None:
    table = RequestTable([waiting("a", 10), decoding("b"), waiting("c", 10)])
    first, second = table[0], table[1]
    first.resident, second.resident = True, False
    table.update(first)
    table.update(second)
    assert (ids(table.residents), ids(table.waiting)) == (["a"], ["b", "c"])


def test_a_request_that_left_is_gone_and_its_id_may_come_back() -> None:
    table = RequestTable([waiting("a", 10), waiting("b", 10)])
    assert table.remove("a").id == "a"
    table.add(waiting("a", 20))
    assert ids(table) == ["b", "a"]
    assert table[1].prompt_tokens == 20


def test_hidden_requests_are_kept_and_not_seen() -> None:
    table = RequestTable([decoding("a"), waiting("b", 10), decoding("c")])
    table.hide({"a", "b"})
    assert (len(table), ids(table), ids(table.residents), ids(table.waiting)) == (1, ["c"], ["c"], [])
    assert list(table.by_id) == ["a", "b", "c"]
    table.remove("a")
    table.hide(set())
    assert (len(table), ids(table.residents), ids(table.waiting)) == (2, ["c"], ["b"])


def test_room_is_reused_however_many_requests_pass_through() -> None:
    table = RequestTable([waiting("oldest", 10)])
    for number in range(5000):
        table.add(waiting(f"r{number}", number + 1))
        if number >= 100:
            table.remove(f"r{number - 100}")
    assert ids(table) == ["oldest", *(f"r{number}" for number in range(4900, 5000))]
    assert table.rows().max() < 256
    assert table.columns(table.rows())[PROMPT].tolist() == [10, *range(4901, 5001)]


def test_rows_from_before_a_change_are_not_taken_for_others() -> None:
    table = RequestTable([waiting("a", 10)])
    row = int(table.rows()[0])
    table.remove("a")
    with pytest.raises(LookupError, match="is empty"):
        table.at(row)


@given(st.lists(st.tuples(st.sampled_from(["add", "admit", "preempt", "hide", "emit", "remove"]), st.integers(0, 99))))
def test_what_is_asked_after_each_change_is_what_a_new_table_would_say(changes: list[tuple[str, int]]) -> None:
    table, hidden = RequestTable(), set[str]()
    for number, (change, choice) in enumerate(changes):
        present = list(table.by_id.values())
        chosen = present[choice % len(present)] if present else None
        if change == "add":
            table.add(waiting(f"r{number}", 10 + number))
        elif chosen is None:
            continue
        elif change == "hide":
            hidden = {chosen.id} ^ hidden
        elif change == "remove":
            hidden.discard(table.remove(chosen.id).id)
        elif change == "emit":
            if not chosen.resident:
                continue
            chosen.emitted_tokens += 1
            chosen.computed_tokens += 1
        else:
            chosen.resident = change == "admit"
            table.update(chosen)
        table.hide(hidden)
        seen = RequestTable([request for request in table.by_id.values() if request.id not in hidden])
        assert (ids(table), len(table)) == (ids(seen), len(seen))
        assert (ids(table.residents), ids(table.waiting)) == (ids(seen.residents), ids(seen.waiting))
        assert ids(table.requests(table.rows())) == ids(seen.requests(seen.rows()))
        np.testing.assert_array_equal(table.columns(table.rows())[:NOTE], seen.columns(seen.rows())[:NOTE])
