"""Length tables that learn kinds anew when outputs are suddenly others."""

from collections.abc import Sequence

import numpy as np
import pytest

from engine_builders import service_terms
from proserve_core.batching import RequestState
from proserve_core.batching.lengths import REFRESH_S
from proserve_core.batching.watched_lengths import WatchedLengths
from proserve_core.clues import LengthClues


def request(*, client: str = "") -> RequestState:
    return RequestState(
        id="r", arrival_s=0.0, terms=service_terms(1.0), prompt_tokens=100, clues=LengthClues(client=client)
    )


def expected(table: WatchedLengths, kind: RequestState) -> float:
    """Answer for a request that arrives now."""
    profile = table.profile(kind)
    table.refresh(table.finished / 20 + REFRESH_S)
    length = float(table.expected_length(np.array([profile]))[0])
    table.left(profile)
    return length


def outputs_of_band(table: WatchedLengths) -> float:
    """How many the band remembers."""
    return sum(next(counts for counts in table.counts().tables if counts.key[0] == "band").events)


def taught_steadily(kind: RequestState, outputs: Sequence[int], table: WatchedLengths) -> None:
    """One request after another, twenty a second."""
    for output in outputs:
        profile = table.profile(kind)
        table.refresh(table.finished / 20)
        table.saw_tokens(np.array([profile]), np.zeros(1), np.array([float(output)]))
        table.saw_end(profile, output)
        table.left(profile)


def lognormal_lengths(mean: float, count: int) -> list[int]:
    return [max(1, round(length)) for length in mean * np.random.default_rng(1).lognormal(sigma=0.8, size=count)]


@pytest.mark.parametrize("times", [0.2, 5.0])
def test_a_band_whose_outputs_change_all_at_once_is_learned_anew(times: float) -> None:
    table, kind = WatchedLengths(), request()
    taught_steadily(kind, lognormal_lengths(200, 1000), table)
    before = expected(table, kind)
    taught_steadily(kind, lognormal_lengths(200 * times, 120), table)
    # A tenth of what the band remembers would be of the new kind without an alarm.
    assert outputs_of_band(table) < 120
    assert (expected(table, kind) / before - 1) / (times - 1) > 0.3


def test_steady_outputs_are_not_forgotten() -> None:
    table = WatchedLengths()
    taught_steadily(request(), lognormal_lengths(200, 1500), table)
    assert outputs_of_band(table) == pytest.approx(1000 * (1 - (1 - 1 / 1000) ** 1500), rel=0.01)


def test_runs_of_like_outputs_of_a_client_do_not_make_a_band_forgotten() -> None:
    table, kind = WatchedLengths(), request(client="a")
    taught_steadily(kind, lognormal_lengths(200, 500), table)
    taught_steadily(kind, [20] * 100, table)
    assert outputs_of_band(table) > 400


@pytest.mark.parametrize("times", [1.0, 5.0])
def test_outputs_reported_one_by_one_teach_the_same_as_in_columns(times: float) -> None:
    kinds = [request(), request(client="a")]
    in_columns, one_by_one = WatchedLengths(), WatchedLengths()
    for number, output in enumerate(lognormal_lengths(200, 600)):
        output = round(output * times) if number > 300 else output
        # Every tenth was counted with tokens in flight that never came.
        counted = output + 2 if number % 10 == 0 else output // 2
        for table in (in_columns, one_by_one):
            profile = table.profile(kinds[number % 2])
            table.refresh(table.finished / 20)
            table.saw_tokens(np.array([profile]), np.zeros(1), np.array([float(counted)]))
            if table is one_by_one:
                table.saw_more(profile, counted, output)
            else:
                table.saw_tokens(np.array([profile]), np.array([float(counted)]), np.array([float(output)]))
            table.saw_end(profile, output)
            table.left(profile)
    assert one_by_one.counts() == in_columns.counts()
    assert [expected(one_by_one, kind) for kind in kinds] == [expected(in_columns, kind) for kind in kinds]
