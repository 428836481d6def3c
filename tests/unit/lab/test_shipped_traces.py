"""Traces that come with ProServe, and which file a name on the command line means."""

from pathlib import Path

import pytest

from proserve_lab.shipped_traces import DEMO_TRACE, find_trace, shipped_names, shipped_trace
from proserve_lab.trace import TraceError, read_trace


def test_the_demo_slice_is_a_thousand_requests() -> None:
    rows = read_trace(shipped_trace(DEMO_TRACE))
    assert len(rows) == 1000
    assert rows[0].arrival_s == 0.0


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_trace_can_be_read_whole(name: str) -> None:
    rows = read_trace(shipped_trace(name))
    assert len(rows) >= 1000
    assert rows[0].arrival_s == 0.0


def test_shipped_mooncake_arrivals_are_not_in_ticks() -> None:
    rows = read_trace(shipped_trace("mooncake-conversation"))
    assert len({row.arrival_s for row in rows}) > 0.99 * len(rows)


def test_a_file_comes_before_a_shipped_trace_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_trace(Path("servegen-m-large")).name == "servegen-m-large.csv.gz"
    Path("servegen-m-large").write_text("", encoding="utf-8")
    assert find_trace(Path("servegen-m-large")) == Path("servegen-m-large")


def test_an_unknown_trace_is_an_error_that_lists_the_shipped_ones() -> None:
    with pytest.raises(TraceError, match=r"none\.csv: cannot read the trace: no such file.*azure-conv-2023"):
        find_trace(Path("none.csv"))
    with pytest.raises(TraceError, match="trace 'none': not shipped with ProServe"):
        shipped_trace("none")
