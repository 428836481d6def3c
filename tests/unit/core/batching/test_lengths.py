"""The table of output lengths against hand-worked cases and against plain sums over its definition."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.batching.lengths import BANDS, BINS, STARTS, LengthCounts, LengthTable, band_of


def expected(table: LengthTable, emitted: float, *, skipped: float | None = None, band: int = 0) -> float:
    column = None if skipped is None else np.array([skipped])
    return float(table.expected_rest(np.array([band]), np.array([emitted]), column)[0])


def learned(*outputs: int, band: int = 0, running: tuple[int, ...] = ()) -> LengthTable:
    """A table that saw whole outputs, and what running ones have emitted so far."""
    table = LengthTable()
    for output in (*outputs, *running):
        table.saw_tokens(np.array([band]), np.zeros(1), np.array([float(output)]))
    for output in outputs:
        table.saw_end(band, output)
    table.rebuild(0.0)
    return table


@pytest.mark.parametrize(
    ("prompt", "band"), [(1, 0), (255, 0), (256, 1), (1023, 2), (16383, 6), (16384, 7), (10**6, 7)]
)
def test_bands_double(prompt: int, band: int) -> None:
    assert band_of(prompt) == band


def test_a_new_table_expects_the_first_guess_at_any_time() -> None:
    # Hazard 1/200 everywhere: the tail of a geometric distribution does not age.
    table = LengthTable()
    for emitted in (0.0, 1.0, 50.0, 20_000.0):
        assert expected(table, emitted) == pytest.approx(200)
    assert expected(table, 10.0, skipped=1.0) == pytest.approx(200 * (1 - 1 / 200))


def test_outputs_of_one_length_are_expected_to_end_about_there() -> None:
    # The bin is wider than one token, so some are expected to go on behind it.
    table = learned(*[100] * 2000)
    assert expected(table, 0.0) == pytest.approx(100, rel=0.2)
    assert expected(table, 60.0) == pytest.approx(40, rel=0.5)
    assert expected(table, 60.0, skipped=70.0) < 0.3 * expected(table, 60.0)


def test_running_outputs_count_with_what_they_have_emitted() -> None:
    # Ten of 20 tokens have ended, ten go on at 200: the mean of the ended alone would be 20.
    without, with_running = learned(*[20] * 10), learned(*[20] * 10, running=(200,) * 10)
    assert expected(with_running, 0.0) > 3 * expected(without, 0.0)


def test_bands_differ_once_they_are_known_and_lean_on_all_until_then() -> None:
    table = LengthTable()
    for band, first, last in ((0, 5, 35), (5, 300, 500)):
        for output in [*range(first, last + 1)] * 30:
            table.saw_tokens(np.array([band]), np.zeros(1), np.array([float(output)]))
            table.saw_end(band, output)
    table.rebuild(0.0)
    short, unknown, long = (expected(table, 0.0, band=band) for band in (0, 3, 5))
    assert long == pytest.approx(400, rel=0.1)
    assert short < 0.6 * unknown < 0.6 * long


@settings(max_examples=30)
@given(
    outputs=st.lists(st.integers(1, 3000), min_size=1, max_size=20),
    emitted=st.integers(0, 2000),
    skipped=st.integers(0, 500),
)
def test_closed_forms_are_the_sums_they_stand_for(outputs: list[int], emitted: int, skipped: int) -> None:
    table = learned(*outputs)
    bins = np.searchsorted(STARTS, np.arange(1, 60_000), side="right") - 1
    stay = np.exp(table._log_stay[bins])  # of band 0
    survival = np.concatenate(([1.0], np.cumprod(stay)))
    want = survival[emitted + skipped :].sum() / survival[emitted]
    assert expected(table, emitted, skipped=skipped) == pytest.approx(want, rel=1e-6, abs=1e-12)


@given(parts=st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_tokens_seen_in_parts_are_the_tokens_seen_at_once(parts: list[int]) -> None:
    pieces, whole, emitted = LengthTable(), LengthTable(), 0
    for part in parts:
        pieces.saw_tokens(np.array([2]), np.array([float(emitted)]), np.array([float(emitted + part)]))
        emitted += part
    whole.saw_tokens(np.array([2]), np.zeros(1), np.array([float(emitted)]))
    assert pieces.counts() == whole.counts()
    assert sum(map(sum, whole.counts().exposure)) == emitted


def test_learning_survives_a_restart() -> None:
    table = learned(3, 30, 300, 30_000, running=(7,))
    kept = msgspec.json.decode(msgspec.json.encode(table.counts()), type=LengthCounts)
    again = LengthTable(kept)
    assert again.counts() == table.counts()
    assert again.finished == 4
    assert expected(again, 5.0) == expected(table, 5.0)


@pytest.mark.parametrize("events", [[[0] * BINS] * (BANDS - 1), [[0] * (BINS - 1)] * BANDS, [[-1] * BINS] * BANDS])
def test_counts_of_another_shape_are_refused(events: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="events: expected 8 bands"):
        LengthTable(LengthCounts(events=events, exposure=[[0] * BINS] * BANDS))


def test_answers_are_due_each_second_and_sooner_when_much_was_learned() -> None:
    table = LengthTable()
    assert table.due(0.0)
    table.rebuild(0.0)
    assert not table.due(0.9)
    assert table.due(1.0)
    for _ in range(6):
        table.saw_end(0, 10)
    assert table.due(0.1)
    table.rebuild(0.1)
    assert not table.due(0.2)
