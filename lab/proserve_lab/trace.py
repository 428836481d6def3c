"""Request traces: when requests arrived and how long they were.

A trace is a CSV file (or CSV.gz) with a header and the columns `arrival_s`, `prompt_tokens`, `output_tokens`. Two more
are read where they are: `client` (who sent the request) and `prefix_hash_ids` (numbers of the prompt's blocks in order,
separated by spaces: prompts that begin alike begin with the same numbers); all others are left alone. Arrivals are
seconds from the start of the trace and never go back.
"""

import csv
import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")


class TraceError(ValueError):
    """The file is not a usable trace; the message names the file, the line, the value and what is expected."""


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a trace."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    client: str = ""
    prefix_hash_ids: tuple[int, ...] = ()


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRow]:
    """The first `limit` rows of a trace (all without it).

    Raises:
        TraceError: the file can't be read, has no rows, lacks a column, or a value is out of range.
    """
    try:
        with _open(path) as file:
            rows = list(_rows(path, file, limit))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot read the trace: {error}") from error
    if not rows:
        raise TraceError(f"{path}: the trace has no requests")
    return rows


def rescale(rows: Sequence[TraceRow], *, rate: float) -> list[TraceRow]:
    """The same pattern of arrivals, stretched to a mean of `rate` requests per second."""
    if rate <= 0:
        raise ValueError(f"rate: expected a positive number of requests per second, got {rate}")
    span_s = rows[-1].arrival_s - rows[0].arrival_s
    # n requests span n - 1 gaps.
    factor = (len(rows) - 1) / rate / span_s if span_s > 0 else 0.0
    first_s = rows[0].arrival_s
    return [msgspec.structs.replace(row, arrival_s=(row.arrival_s - first_s) * factor) for row in rows]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(path: Path, file: TextIO, limit: int | None) -> Iterator[TraceRow]:
    reader = csv.DictReader(file)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise TraceError(f"{path}:1: missing column {', '.join(missing)}; the header must name {', '.join(COLUMNS)}")
    last_s = 0.0
    for number, record in enumerate(reader):
        if limit is not None and number >= limit:
            return
        where = f"{path}:{reader.line_num}"
        arrival_s = _number(where, record, "arrival_s")
        if arrival_s < last_s:
            raise TraceError(f"{where}: arrival_s {arrival_s:g} is before the row above ({last_s:g}); sort the trace")
        last_s = arrival_s
        yield TraceRow(
            arrival_s=arrival_s,
            prompt_tokens=_count(where, record, "prompt_tokens"),
            output_tokens=_count(where, record, "output_tokens"),
            client=record.get("client") or "",
            prefix_hash_ids=_hash_ids(where, record.get("prefix_hash_ids") or ""),
        )


def _number(where: str, record: Mapping[str, str | None], column: str) -> float:
    text = record[column]
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TraceError(f"{where}: {column}: expected a number, got {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise TraceError(f"{where}: {column}: expected a finite number from 0 on, got {text!r}")
    return value


def _hash_ids(where: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split()))
    except ValueError:
        raise TraceError(
            f"{where}: prefix_hash_ids: expected whole numbers separated by spaces, got {text[:40]!r}"
        ) from None


def _count(where: str, record: Mapping[str, str | None], column: str) -> int:
    value = _number(where, record, column)
    if value < 1 or value != int(value):
        raise TraceError(f"{where}: {column}: expected a whole number from 1 on, got {record[column]!r}")
    return int(value)
