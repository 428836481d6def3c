"""Request traces: when requests arrived and how long they were.

A trace is a CSV file (or CSV.gz) with a header and the columns `arrival_s`, `prompt_tokens`, `output_tokens`. Two more
are read where they are: `client` (who sent the request) and `prefix_hash_ids` (numbers of the prompt's blocks in order,
separated by spaces: prompts that begin alike begin with the same numbers); all others are left alone. Arrivals are
seconds from the start of the trace and never go back.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
_READ = (*COLUMNS, "client", "prefix_hash_ids")
LARGEST = 1e10
"""Of any number in a trace. Later arrivals are too coarse as floats for steps of milliseconds to add up."""
_ENCODING = "utf-8-sig"
"""With or without the mark that spreadsheets begin a file with."""
_SHOWN = 40
"""Characters of a wrong value that a message shows."""


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
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}: cannot read the trace: expected CSV in UTF-8, or a name that ends in .gz if it is compressed; "
            f"{error}"
        ) from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise TraceError(f"{path}: cannot read the trace: {getattr(error, 'strerror', None) or error}") from error
    if not rows:
        raise TraceError(f"{path}: the trace has no requests")
    return rows


def rescale(rows: Sequence[TraceRow], *, rate: float) -> list[TraceRow]:
    """The same pattern of arrivals, stretched to a mean of `rate` requests per second.

    Raises:
        ValueError: no such rate, or one so low that the last arrival is beyond what a trace may have.
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"rate: expected a positive number of requests per second, got {rate:g}")
    if len(rows) - 1 > LARGEST * rate:
        raise ValueError(f"rate: expected more than {len(rows) / LARGEST:g} requests per second, got {rate:g}")
    span_s = rows[-1].arrival_s - rows[0].arrival_s
    # n requests span n - 1 gaps.
    factor = (len(rows) - 1) / rate / span_s if span_s > 0 else 0.0
    first_s = rows[0].arrival_s
    return [msgspec.structs.replace(row, arrival_s=(row.arrival_s - first_s) * factor) for row in rows]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=_ENCODING, newline="")
    return path.open(encoding=_ENCODING, newline="")


def _rows(path: Path, file: TextIO, limit: int | None) -> Iterator[TraceRow]:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise TraceError(
            f"{path}:1: missing column {', '.join(missing)}; the header must name {', '.join(COLUMNS)} with commas "
            f"between them, got {','.join(header)[:_SHOWN]!r}"
        )
    twice = [name for name in _READ if header.count(name) > 1]
    if twice:
        raise TraceError(f"{path}:1: the header names {', '.join(twice)} more than once; keep one")
    last_s = 0.0
    # Empty lines are none of the rows.
    for number, fields in enumerate(filter(None, reader)):
        if number == limit:
            return
        where = f"{path}:{reader.line_num}"
        if len(fields) != len(header):
            raise TraceError(
                f"{where}: expected {len(header)} fields as in the header, got {len(fields)}; "
                "separate fields by one comma, and quote those that have commas"
            )
        record = dict(zip(header, fields, strict=True))
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


def _number(where: str, record: Mapping[str, str], column: str) -> float:
    text = record[column]
    try:
        value = float(text)
    except ValueError:
        raise TraceError(f"{where}: {column}: expected a number, got {text[:_SHOWN]!r}") from None
    if not 0 <= value <= LARGEST:
        raise TraceError(f"{where}: {column}: expected a number from 0 to {LARGEST:g}, got {text[:_SHOWN]!r}")
    return value


def _hash_ids(where: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split()))
    except ValueError:
        raise TraceError(
            f"{where}: prefix_hash_ids: expected whole numbers separated by spaces, got {text[:_SHOWN]!r}"
        ) from None


def _count(where: str, record: Mapping[str, str], column: str) -> int:
    value = _number(where, record, column)
    if value < 1 or value != int(value):
        raise TraceError(f"{where}: {column}: expected a whole number from 1 on, got {record[column][:_SHOWN]!r}")
    return int(value)
