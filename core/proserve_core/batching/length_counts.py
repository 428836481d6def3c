"""What a length table has learned, as data: kept across restarts of an engine."""

from collections.abc import Sequence

import msgspec
import numpy as np

from proserve_core.batching.output_bins import BINS, Column

VERSION = 1


class TableCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one table; bins without any are left out."""

    key: tuple[str | int, ...]
    bins: list[int]
    events: list[float]
    """Outputs that ended there; fractions, because old ones are forgotten."""
    exposure: list[float]
    """Tokens emitted there."""

    @classmethod
    def sparse(cls, key: Sequence[str | int], events: Column, exposure: Column) -> "TableCounts":
        """From one entry per bin."""
        bins = np.flatnonzero(exposure > 0)
        return cls(
            key=tuple(key),
            bins=bins.tolist(),
            events=events[bins].round(3).tolist(),
            exposure=exposure[bins].round(3).tolist(),
        )

    def dense(self) -> tuple[Column, Column]:
        """Events and exposure, one entry per bin."""
        events, exposure = np.zeros(BINS), np.zeros(BINS)
        events[self.bins], exposure[self.bins] = self.events, self.exposure
        return events, exposure


class LengthCounts(msgspec.Struct, frozen=True, kw_only=True):
    """All tables, the one asked for last at the end."""

    version: int = VERSION
    tables: list[TableCounts] = []


class LengthCountsError(ValueError):
    """The bytes are not the counts of a length table that this version can use."""


def encode_counts(counts: LengthCounts) -> bytes:
    return msgspec.json.encode(counts)


def decode_counts(data: bytes) -> LengthCounts:
    """Counts from their bytes.

    Raises:
        LengthCountsError: malformed, of another version, or with impossible counts; the message says which.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version != VERSION:
            raise LengthCountsError(f"version {version}, expected {VERSION}")
        counts = msgspec.json.decode(data, type=LengthCounts)
    except msgspec.MsgspecError as error:
        raise LengthCountsError(f"not counts of output lengths: {error}") from error
    for table in counts.tables:
        bins, events, exposure = table.bins, table.events, table.exposure
        if not table.key:
            raise LengthCountsError("a table has no key")
        if not len(bins) == len(events) == len(exposure) or bins != sorted(set(bins)):
            raise LengthCountsError(f"table {table.key}: bins must ascend, with as many events and exposures")
        if bins and not (bins[0] >= 0 and bins[-1] < BINS and min(events) >= 0 and min(exposure) >= 0):
            raise LengthCountsError(f"table {table.key}: expected bins below {BINS} and counts from 0 on")
    return counts


class _Versioned(msgspec.Struct):
    version: int
