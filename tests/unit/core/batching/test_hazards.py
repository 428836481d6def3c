"""Hazards by hand."""

import numpy as np
import pytest

from proserve_core.batching.hazards import general, of_kind, of_sender
from proserve_core.batching.output_bins import BINS, STARTS


def table(**cells: float) -> np.ndarray:
    """One row; `b3=5.0` puts 5 into bin 3."""
    row = np.zeros((1, BINS))
    for name, value in cells.items():
        row[0, int(name[1:])] = value
    return row


KNOWN = np.full((1, BINS), 0.01)


def test_without_counts_the_first_guess_holds_everywhere() -> None:
    assert general(np.zeros(BINS), np.zeros(BINS)) == pytest.approx(1 / 200)


def test_what_has_no_counts_is_like_what_is_known() -> None:
    assert of_kind(KNOWN, table(), table()) == pytest.approx(KNOWN)
    assert of_sender(KNOWN, table(), table()) == pytest.approx(KNOWN)


def test_a_bin_of_a_kind_is_believed_by_its_exposure() -> None:
    # 4 events at 0.01 are 400 tokens: 10 events in 100 tokens of its own and 4 in 400 make 14 in 500.
    hazard = of_kind(KNOWN, table(b3=10.0), table(b3=100.0))
    assert hazard[0, 3] == pytest.approx(14 / 500)
    assert hazard[0, 4] == pytest.approx(0.01)


def test_where_outputs_hardly_ever_end_the_prior_is_limited_in_tokens() -> None:
    # 4 events at 0.0001 would be 40,000 tokens.
    hazard = of_kind(KNOWN / 100, table(b3=2.0), table(b3=400.0))
    assert hazard[0, 3] == pytest.approx((2 + 400 * 1e-4) / 800)


def test_one_bin_of_a_sender_tells_of_its_stretch_of_the_output() -> None:
    # Bin 3 is in the stretch of the first 8 tokens: 9 events where 0.01 * 100 were expected. The prior is two outputs,
    # 16 tokens, with 0.16 events.
    hazard = of_sender(KNOWN, table(b3=9.0), table(b3=100.0))
    assert STARTS[7] < 9 <= STARTS[8]
    assert hazard[0, 7] == pytest.approx(0.01 * 9.16 / 1.16)
    assert hazard[0, 8] == pytest.approx(0.01)
    # In the bin itself, one event at the corrected hazard is the prior.
    assert hazard[0, 3] == pytest.approx((9 + 1) / (100 + 1 / (0.01 * 9.16 / 1.16)))
