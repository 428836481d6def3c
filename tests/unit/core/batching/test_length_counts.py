"""Counts of output lengths as bytes: what is written is read, and nothing else."""

import msgspec
import numpy as np
import pytest

from proserve_core.batching.length_counts import (
    LengthCounts,
    LengthCountsError,
    TableCounts,
    decode_counts,
    encode_counts,
)
from proserve_core.batching.output_bins import BINS


def test_counts_come_back_as_they_were() -> None:
    events, exposure = np.zeros(BINS), np.zeros(BINS)
    events[5], exposure[3], exposure[5] = 2.5, 10.0, 7.0
    counts = LengthCounts(tables=[TableCounts.sparse(("client-band", "a", 3), events, exposure)])
    (table,) = decode_counts(encode_counts(counts)).tables
    assert table.key == ("client-band", "a", 3)
    assert table.dense()[0].tolist() == events.tolist()
    assert table.dense()[1].tolist() == exposure.tolist()


def _table(**changes: object) -> bytes:
    table = {"key": ["all"], "bins": [1, 2], "events": [0, 1], "exposure": [1, 1]} | changes
    return msgspec.json.encode({"version": 1, "tables": [table]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not counts of output lengths"),
        (b"[]", "not counts of output lengths"),
        (b'{"version": 2, "tables": []}', "version 2, expected 1"),
        (_table(bins=[2, 1]), "bins must ascend"),
        (_table(events=[1]), "bins must ascend"),
        (_table(bins=[1, BINS]), f"expected bins below {BINS}"),
        (_table(exposure=[-1, 1]), "counts from 0 on"),
        (_table(key=[1.5]), "not counts of output lengths"),
        (_table(key=[]), "has no key"),
    ],
)
def test_anything_else_is_refused_and_why(data: bytes, message: str) -> None:
    with pytest.raises(LengthCountsError, match=message):
        decode_counts(data)
