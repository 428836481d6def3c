"""Reading and rescaling request traces."""

import gzip
import random
from pathlib import Path

import pytest

from proserve_lab.trace import TraceError, TraceRow, read_trace, rescale

HEADER = "arrival_s,prompt_tokens,output_tokens"


def _file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_are_read_in_order_and_cut_at_the_limit(tmp_path: Path) -> None:
    path = _file(tmp_path, HEADER + ",colour", "0.0,10,2,a", "1.5,20,3,b", "2,30,4,c")
    assert read_trace(path, limit=2) == [
        TraceRow(arrival_s=0.0, prompt_tokens=10, output_tokens=2),
        TraceRow(arrival_s=1.5, prompt_tokens=20, output_tokens=3),
    ]


def test_client_and_prefix_are_read_where_they_are(tmp_path: Path) -> None:
    path = _file(tmp_path, HEADER + ",client,prefix_hash_ids", "0,10,2,a,0 7 12", "1,20,3,,")
    named, unnamed = read_trace(path)
    assert (named.client, named.prefix_hash_ids) == ("a", (0, 7, 12))
    assert (unnamed.client, unnamed.prefix_hash_ids) == ("", ())


def test_compressed_traces_are_read_like_plain_ones(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER}\n0,1,1\n".encode()))
    assert len(read_trace(path)) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["arrival_s,prompt_tokens", "0,1"], "missing column output_tokens; .* got 'arrival_s,prompt_tokens'"),
        (
            ["arrival_s;prompt_tokens;output_tokens", "0;1;1"],
            ":1: missing column .* got 'arrival_s;prompt_tokens;output_tokens'",
        ),
        ([""], ":1: missing column .* got ''"),
        ([HEADER], "has no requests"),
        ([HEADER, "0,x,1"], ":2: prompt_tokens: expected a number, got 'x'"),
        ([HEADER, "0,0,1"], ":2: prompt_tokens: expected a whole number from 1 on, got '0'"),
        ([HEADER, "0,-1,1"], ":2: prompt_tokens: expected a number from 0 to 1e\\+10, got '-1'"),
        ([HEADER, "nan,1,1"], ":2: arrival_s: expected a number from 0 to 1e\\+10, got 'nan'"),
        ([HEADER, "0,1e300,1"], ":2: prompt_tokens: expected a number from 0 to 1e\\+10, got '1e300'"),
        ([HEADER, "0,1,1,1"], ":2: expected 3 fields as in the header, got 4; .* quote"),
        ([HEADER, "0,1,1", "0,1"], ":3: expected 3 fields as in the header, got 2"),
        ([HEADER + ",prompt_tokens", "0,1,1,1"], ":1: the header names prompt_tokens more than once"),
        ([HEADER, "0,1," + "3" * 200_000], "cannot read the trace: field larger than field limit"),
        ([HEADER + ",prefix_hash_ids", "0,1,1,3 x"], ":2: prefix_hash_ids: expected whole numbers separated by spaces"),
        ([HEADER, "5,1,1", "4,1,1"], ":3: arrival_s 4 is before the row above"),
    ],
)
def test_bad_traces_are_refused_with_the_line_and_the_value(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(_file(tmp_path, *lines))


def test_missing_and_damaged_files_are_trace_errors(tmp_path: Path) -> None:
    cut, damaged, latin = (tmp_path / name for name in ("cut.csv.gz", "damaged.csv.gz", "latin.csv"))
    packed = gzip.compress(random.Random(0).randbytes(1000).hex().encode())
    cut.write_bytes(packed[:20])
    damaged.write_bytes(packed[:200] + bytes(200) + packed[400:])
    latin.write_bytes(f"{HEADER},client\n0,1,1,ZÜRICH\n".encode("latin-1"))
    for path in (tmp_path / "none.csv", tmp_path, cut, damaged, latin):
        with pytest.raises(TraceError, match="cannot read the trace"):
            read_trace(path)


def test_a_file_that_is_no_text_is_told_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "packed.csv"
    path.write_bytes(gzip.compress(f"{HEADER}\n0,1,1\n".encode()))
    with pytest.raises(TraceError, match=r"cannot read the trace: expected CSV in UTF-8, or a name that ends in \.gz"):
        read_trace(path)


def test_spaces_around_names_and_values_are_passed_over(tmp_path: Path) -> None:
    path = _file(tmp_path, "arrival_s, prompt_tokens , output_tokens", "0, 10, 2")
    assert read_trace(path) == [TraceRow(arrival_s=0.0, prompt_tokens=10, output_tokens=2)]


def test_a_byte_order_mark_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{HEADER}\n\n0,1,1\n\n1,1,1\n", encoding="utf-8-sig")
    assert len(read_trace(path)) == 2
    assert len(read_trace(path, limit=1)) == 1


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 1e-300])
def test_impossible_rates_are_refused(rate: float) -> None:
    rows = [TraceRow(arrival_s=at, prompt_tokens=1, output_tokens=1) for at in (10.0, 11.0)]
    with pytest.raises(ValueError, match=r"rate: expected .* requests per second, got"):
        rescale(rows, rate=rate)


def test_rescaled_arrivals_keep_their_pattern_at_the_wanted_rate() -> None:
    rows = [TraceRow(arrival_s=at, prompt_tokens=1, output_tokens=1) for at in (10.0, 11.0, 14.0)]
    scaled = rescale(rows, rate=4.0)
    assert [row.arrival_s for row in scaled] == pytest.approx([0.0, 0.125, 0.5])
