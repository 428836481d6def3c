"""The tables of output lengths: who is believed to be like whom."""

import numpy as np
import pytest

from engine_builders import service_terms
from proserve_core.batching import RequestState
from proserve_core.batching.length_counts import decode_counts, encode_counts
from proserve_core.batching.lengths import MAX_PROFILES, MAX_TABLES, LengthTable, band_of
from proserve_core.clues import LengthClues


def request(
    *, prompt: int = 100, client: str = "", prefix: str = "", max_tokens: int | None = None, weight: float = 1.0
) -> RequestState:
    return RequestState(
        id="r",
        arrival_s=0.0,
        terms=service_terms(weight),
        prompt_tokens=prompt,
        clues=LengthClues(client=client, prefix=prefix, max_tokens=max_tokens),
    )


def teach(table: LengthTable, kind: RequestState, *outputs: int, running: bool = False) -> None:
    for output in outputs:
        profile = table.profile(kind)
        table.saw_tokens(np.array([profile]), np.zeros(1), np.array([float(output)]))
        if not running:
            table.saw_end(profile, output)
            table.left(profile)


def expected(table: LengthTable, kind: RequestState, emitted: float = 0.0, *, skipped: float | None = None) -> float:
    """Answer for a request that arrives now."""
    profile = table.profile(kind)
    table.refresh(0.0)
    column = None if skipped is None else np.array([skipped])
    rest = float(table.expected_rest(np.array([profile]), np.array([emitted]), column)[0])
    table.left(profile)
    return rest


@pytest.mark.parametrize(
    ("prompt", "band"), [(1, 0), (255, 0), (256, 1), (1023, 2), (16383, 6), (16384, 7), (10**6, 7)]
)
def test_bands_double(prompt: int, band: int) -> None:
    assert band_of(prompt) == band


def test_a_new_table_expects_the_first_guess_at_any_time() -> None:
    # Hazard 1/200 everywhere: the tail of a geometric distribution does not age.
    table = LengthTable()
    for emitted in (0.0, 1.0, 50.0, 20_000.0):
        assert expected(table, request(), emitted) == pytest.approx(200)
    assert expected(table, request(), 10.0, skipped=1.0) == pytest.approx(200 * (1 - 1 / 200))


def test_outputs_of_one_length_are_expected_to_end_about_there() -> None:
    # The bin is wider than one token, so some are expected to go on behind it.
    table = LengthTable()
    teach(table, request(), *[100] * 2000)
    assert expected(table, request()) == pytest.approx(100, rel=0.2)
    assert expected(table, request(), 60.0) == pytest.approx(40, rel=0.5)
    assert expected(table, request(), 60.0, skipped=70.0) < 0.3 * expected(table, request(), 60.0)


def test_running_outputs_count_with_what_they_have_emitted() -> None:
    # Ten of 20 tokens have ended, ten go on at 200: the mean of the ended alone would be 20.
    without, with_running = LengthTable(), LengthTable()
    for table in (without, with_running):
        teach(table, request(), *[20] * 10)
    teach(with_running, request(), *[200] * 10, running=True)
    assert expected(with_running, request()) > 3 * expected(without, request())


def test_bands_differ_once_they_are_known_and_lean_on_all_until_then() -> None:
    table = LengthTable()
    for prompt, first, last in ((100, 5, 35), (5000, 300, 500)):
        teach(table, request(prompt=prompt), *[*range(first, last + 1)] * 30)
    short, unknown, long = (expected(table, request(prompt=prompt)) for prompt in (100, 1500, 5000))
    assert long == pytest.approx(400, rel=0.1)
    assert short < 0.6 * unknown < 0.6 * long


def test_a_client_is_known_after_few_outputs_whatever_the_others_do() -> None:
    table = LengthTable()
    teach(table, request(client="talks"), *[300, 250, 350] * 100)
    teach(table, request(client="brief"), *[3, 5, 4, 6])
    assert expected(table, request(client="brief")) < 50
    assert expected(table, request(client="talks")) == pytest.approx(300, rel=0.1)
    assert expected(table, request(client="stranger")) > 150


def test_a_client_s_long_prompts_may_have_other_answers_than_its_short_ones() -> None:
    table = LengthTable()
    for _ in range(30):
        teach(table, request(client="a", prompt=100), 400)
        teach(table, request(client="a", prompt=5000), 5)
    assert expected(table, request(client="a", prompt=5000)) < 30
    assert expected(table, request(client="a", prompt=100)) > 200


def test_what_clients_ask_for_at_most_tells_requests_apart() -> None:
    table = LengthTable()
    for _ in range(200):
        teach(table, request(max_tokens=16), 10, 12, 16)
        teach(table, request(max_tokens=2000), 400, 600, 700)
    assert expected(table, request(max_tokens=20)) < 100
    assert expected(table, request(max_tokens=1500)) > 400


def test_classes_are_told_apart() -> None:
    table = LengthTable()
    for _ in range(300):
        teach(table, request(weight=1.0), 10)
        teach(table, request(weight=5.0), 500)
    assert expected(table, request(weight=1.0)) < 60
    assert expected(table, request(weight=5.0)) > 300


def test_prompts_that_begin_alike_have_answers_alike_from_the_second_on() -> None:
    table = LengthTable()
    teach(table, request(client="a", prefix="once"), 10)
    for _ in range(20):
        teach(table, request(client="a", prefix="summary"), 18, 20, 25)
        teach(table, request(client="a", prefix="story"), 700, 900, 1000)
    assert expected(table, request(client="a", prefix="summary")) < 80
    assert expected(table, request(client="a", prefix="story")) > 500
    assert ("prefix", "a", 0, "once") not in {table.key for table in table.counts().tables}


def test_a_client_that_changes_is_followed_although_it_was_known_for_long() -> None:
    table = LengthTable()
    teach(table, request(client="a"), *[10] * 5000)
    assert expected(table, request(client="a")) < 15
    teach(table, request(client="a"), *[1000] * 60)
    assert expected(table, request(client="a")) > 250


def test_learning_survives_a_restart() -> None:
    table = LengthTable()
    teach(table, request(client="a"), 3, 30, 300, 30_000)
    teach(table, request(client="b", prompt=9000), 7, running=True)
    again = LengthTable(decode_counts(encode_counts(table.counts())))
    assert again.counts() == table.counts()
    for kind in (request(client="a"), request(client="b", prompt=9000), request()):
        assert expected(again, kind, 5.0) == pytest.approx(expected(table, kind, 5.0), rel=1e-3)


def test_answers_are_due_each_second_and_sooner_when_much_was_learned() -> None:
    table = LengthTable()
    assert table.due(0.0)
    table.refresh(0.0)
    assert not table.due(0.9)
    assert table.due(1.0)
    profile = table.profile(request())
    for _ in range(6):
        table.saw_end(profile, 10)
    assert table.due(0.1)
    table.refresh(0.1)
    assert not table.due(0.2)


def test_answers_change_only_when_they_are_refreshed() -> None:
    table = LengthTable()
    kind = request(client="a")
    profile = table.profile(kind)
    table.refresh(0.0)
    teach(table, kind, 5, 5, 5)
    assert table.expected_rest(np.array([profile]), np.zeros(1))[0] == pytest.approx(200)
    table.refresh(1.0)
    assert table.expected_rest(np.array([profile]), np.zeros(1))[0] < 50


def test_memory_is_bounded_and_who_was_seen_lately_is_remembered() -> None:
    table = LengthTable()
    for number in range(2 * MAX_PROFILES):
        teach(table, request(client=f"c{number}", prefix=f"p{number}"), 10)
        if number % 100 == 0:
            teach(table, request(client="regular"), 500)
    tables = table.counts().tables
    assert len(tables) <= MAX_TABLES
    assert ("client", "regular") in {item.key for item in tables}
    assert ("client", "c0") not in {item.key for item in tables}
    assert expected(table, request(client="regular")) > 300


def test_requests_in_the_engine_keep_their_profiles_however_many_kinds_there_are() -> None:
    table = LengthTable()
    profiles = [table.profile(request(client=f"c{number}")) for number in range(2 * MAX_PROFILES)]
    assert len(set(profiles)) == len(profiles)
    table.refresh(0.0)
    assert table.expected_rest(np.array(profiles), np.zeros(len(profiles))) == pytest.approx(200)
