"""Public traces in their publishers' formats become ours."""

import gzip
from pathlib import Path

import pytest

from proserve_lab.public_traces import PublicRow, azure_rows, main, mooncake_rows, spread_ticks
from proserve_lab.trace import TraceError, TraceRow, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.0000000,12,0
2023-11-16 18:16:46.6805900,879,55
"""
MOONCAKE = """{"timestamp": 500, "input_length": 700, "output_length": 3, "hash_ids": [0, 7]}
{"timestamp": 500, "input_length": 10, "output_length": 4, "hash_ids": [9]}

{"timestamp": 3500, "input_length": 600, "output_length": 5, "hash_ids": [0, 8]}
"""


def test_azure_time_stamps_become_seconds_and_empty_outputs_are_left_out() -> None:
    assert list(azure_rows(AZURE.splitlines())) == [
        PublicRow(arrival_s=0.0, prompt_tokens=374, output_tokens=44),
        PublicRow(arrival_s=4.314579, prompt_tokens=396, output_tokens=109),
        PublicRow(arrival_s=60.0, prompt_tokens=879, output_tokens=55),
    ]


def test_azure_time_stamps_may_name_a_zone() -> None:
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2024-05-10 00:00:00+00:00,1,1",
        "2024-05-10 00:00:01.5+00:00,1,1",
    ]
    assert [row.arrival_s for row in azure_rows(lines)] == [0.0, 1.5]


def test_mooncake_lines_keep_their_prefix_hashes() -> None:
    assert list(mooncake_rows(MOONCAKE.splitlines())) == [
        PublicRow(arrival_s=0.0, prompt_tokens=700, output_tokens=3, prefix_hash_ids=(0, 7)),
        PublicRow(arrival_s=0.0, prompt_tokens=10, output_tokens=4, prefix_hash_ids=(9,)),
        PublicRow(arrival_s=3.0, prompt_tokens=600, output_tokens=5, prefix_hash_ids=(0, 8)),
    ]


@pytest.mark.parametrize(
    ("read", "lines", "message"),
    [
        (azure_rows, ["TIMESTAMP,ContextTokens", "x"], "line 1: missing column GeneratedTokens"),
        (azure_rows, ["TIMESTAMP,ContextTokens,GeneratedTokens", "now,1,1"], "line 2: Invalid isoformat string: 'now'"),
        (mooncake_rows, ['{"timestamp": 0, "input_length": 1}'], "line 1: Object missing required field"),
    ],
)
def test_a_line_in_another_format_is_named(read: object, lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        list(read(lines))  # type: ignore[operator]


def test_ticks_are_spread_over_their_length_in_order() -> None:
    recorded = [0.0, 0.0, 0.0, 2.999, 3.001, 9.0]
    spread = spread_ticks(recorded, tick_s=3, seed=1)
    assert spread == sorted(spread)
    assert spread[0] == 0.0
    assert spread[2] < spread[3] < spread[5]
    assert spread == spread_ticks(recorded, tick_s=3, seed=1)
    assert spread_ticks([], tick_s=3) == []


def test_a_converted_file_is_a_trace_of_ours(tmp_path: Path) -> None:
    source, target = tmp_path / "trace.jsonl.gz", tmp_path / "trace.csv.gz"
    source.write_bytes(gzip.compress(MOONCAKE.encode()))
    assert main(["mooncake", str(source), str(target), "--limit", "2"]) == 0
    assert read_trace(target) == [
        TraceRow(arrival_s=0.0, prompt_tokens=700, output_tokens=3, prefix_hash_ids=(0, 7)),
        TraceRow(arrival_s=0.0, prompt_tokens=10, output_tokens=4, prefix_hash_ids=(9,)),
    ]
    assert gzip.decompress(target.read_bytes()).splitlines()[1] == b"0.000,700,3,0 7"


def test_a_file_that_cannot_be_converted_is_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "azure.csv"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n", encoding="utf-8")
    assert main(["azure", str(source), str(tmp_path / "out.csv")]) == 2
    assert main(["azure", str(tmp_path / "none.csv"), str(tmp_path / "out.csv")]) == 2
    errors = capsys.readouterr().err
    assert "azure.csv: the trace has no requests" in errors
    assert "No such file" in errors
