"""From the published formats of public traces to ours: `python -m proserve_lab.public_traces FORMAT SOURCE TARGET`.

Formats, as their publishers describe them:
- `azure`: CSV with TIMESTAMP (date and time), ContextTokens, GeneratedTokens (Azure LLM inference dataset of 2023).
- `mooncake`: one JSON object a line with timestamp (milliseconds), input_length, output_length and hash_ids, one for
  each 512 tokens of the prompt (Mooncake, FAST'25).

Mooncake's conversation trace records arrivals in ticks of 3 s. Taken literally, about eleven requests come at once and
then none for 3 s, which its publishers' service did not see. `--spread-ticks 3` spreads each tick's requests over its
3 s, evenly at random with a fixed seed, in the order of the file. It is done here and never while a trace is read: a
reader that moved arrivals silently would falsify traces whose requests do come together.
"""

import argparse
import csv
import gzip
import io
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path

import msgspec

from proserve_lab.trace import TraceError

SPREAD_SEED = 0


class PublicRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request as published; `arrival_s` counts from the first one."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_hash_ids: tuple[int, ...] | None = None


class _MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def azure_rows(lines: Iterable[str]) -> Iterator[PublicRow]:
    """Rows of an Azure CSV file; requests without output tokens (there are a few) are left out.

    Raises:
        TraceError: a column is missing or a value is none; names the line.
    """
    reader = csv.DictReader(lines)
    wanted = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    missing = [name for name in wanted if name not in (reader.fieldnames or ())]
    if missing:
        raise TraceError(f"line 1: missing column {', '.join(missing)}; an Azure trace has {', '.join(wanted)}")
    first: datetime | None = None
    for record in reader:
        try:
            at = datetime.fromisoformat(record["TIMESTAMP"])
            prompt_tokens, output_tokens = int(record["ContextTokens"]), int(record["GeneratedTokens"])
        except (TypeError, ValueError) as error:
            raise TraceError(f"line {reader.line_num}: {error}") from error
        first = first or at
        if prompt_tokens > 0 and output_tokens > 0:
            yield PublicRow(
                arrival_s=(at - first).total_seconds(), prompt_tokens=prompt_tokens, output_tokens=output_tokens
            )


def mooncake_rows(lines: Iterable[str]) -> Iterator[PublicRow]:
    """Rows of a Mooncake JSONL file; requests without output tokens are left out.

    Raises:
        TraceError: a line is no such object; names it.
    """
    first_ms: float | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line, type=_MooncakeLine)
        except msgspec.DecodeError as error:
            raise TraceError(f"line {number}: {error}") from error
        first_ms = record.timestamp if first_ms is None else first_ms
        if record.input_length > 0 and record.output_length > 0:
            yield PublicRow(
                arrival_s=(record.timestamp - first_ms) / 1000,
                prompt_tokens=record.input_length,
                output_tokens=record.output_length,
                prefix_hash_ids=record.hash_ids,
            )


def spread_ticks(arrivals_s: Sequence[float], *, tick_s: float, seed: int = SPREAD_SEED) -> list[float]:
    """Arrivals (ascending) that were recorded in ticks, each tick's spread over its length; order is kept."""
    draw = random.Random(seed)
    spread: list[float] = []
    # Recorded ticks are a millisecond off now and then.
    for tick, members in groupby(arrivals_s, key=lambda at_s: round(at_s / tick_s)):
        spread += sorted(tick * tick_s + tick_s * draw.random() for _ in members)
    first_s = spread[0] if spread else 0.0
    return [at_s - first_s for at_s in spread]


def write_rows(rows: Sequence[PublicRow], target: Path) -> None:
    """Write a trace of ours; compressed if its name ends in .gz, and then the same bytes each time."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with_prefixes = any(row.prefix_hash_ids is not None for row in rows)
    columns = ["arrival_s", "prompt_tokens", "output_tokens"]
    writer.writerow([*columns, "prefix_hash_ids"] if with_prefixes else columns)
    for row in rows:
        values: list[object] = [f"{row.arrival_s:.3f}", row.prompt_tokens, row.output_tokens]
        writer.writerow([*values, " ".join(map(str, row.prefix_hash_ids or ()))] if with_prefixes else values)
    data = text.getvalue().encode()
    target.write_bytes(gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)


def main(arguments: Sequence[str]) -> int:
    """Convert one file; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proserve_lab.public_traces", description=__doc__.split("\n")[0])
    parser.add_argument("format", choices=("azure", "mooncake"))
    parser.add_argument("source", type=Path, help="the published file, .gz or plain")
    parser.add_argument("target", type=Path, help="our CSV; .gz compresses it")
    parser.add_argument("--limit", type=int, help="take the first N requests")
    parser.add_argument("--spread-ticks", type=float, metavar="SECONDS", help="length of the ticks of the arrivals")
    options = parser.parse_args(arguments)
    read = azure_rows if options.format == "azure" else mooncake_rows
    try:
        data = options.source.read_bytes()
        text = (gzip.decompress(data) if options.source.suffix == ".gz" else data).decode()
        rows = list(islice(read(text.splitlines()), options.limit))
        if not rows:
            raise TraceError("the trace has no requests")
        rows.sort(key=lambda row: row.arrival_s)
        if options.spread_ticks:
            arrivals_s = spread_ticks([row.arrival_s for row in rows], tick_s=options.spread_ticks)
            rows = [msgspec.structs.replace(row, arrival_s=at) for row, at in zip(rows, arrivals_s, strict=True)]
        write_rows(rows, options.target)
    except (OSError, EOFError, UnicodeDecodeError, TraceError) as error:
        sys.stderr.write(f"{options.source}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
