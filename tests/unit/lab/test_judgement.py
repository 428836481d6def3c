"""Judging a replay from what its clients saw."""

import pytest

from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_lab.judgement import judge, percentile
from proserve_lab.replay import ReplayRecord, ReplayRequest


def _terms(name: str, weight: float) -> ServiceTerms:
    return ServiceTerms(
        priority_class=name,
        weight=weight,
        first_token_gain=1,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1),
    )


HIGH, LOW = _terms("high", 2), _terms("low", 1)


def _record(
    terms: ServiceTerms, *tokens_s: float, output: int, error: str | None = None, status: int | None = None
) -> ReplayRecord:
    request = ReplayRequest(id="r", arrival_s=0.0, prompt_tokens=5, output_tokens=output, terms=terms, api_key="k")
    return ReplayRecord(request=request, sent_s=0.0, tokens_s=list(tokens_s), error=error, status=status)


def test_gain_counts_from_the_client_and_by_class() -> None:
    report = judge([_record(HIGH, 0.5, 0.6, output=2), _record(LOW, 2.0, 2.1, output=2)])
    assert report.classes["high"].tdg_ratio == 1.0
    assert report.classes["high"].slo_attainment == 1.0
    assert report.classes["low"].tdg_ratio == 0.0
    assert report.classes["low"].lost == {"late_first_token": 1, "late_token_queued": 1}
    assert report.total.gain == 4
    assert report.total.tdg_ratio == pytest.approx(4 / 6)


def test_a_failed_request_is_counted_and_loses_what_it_did_not_get() -> None:
    report = judge(
        [
            _record(HIGH, 0.5, output=4, error="connection lost"),
            _record(HIGH, output=4, error="HTTP 429: busy", status=429),
        ]
    )
    high = report.classes["high"]
    assert (high.requests, high.errors) == (2, 2)
    assert high.lost == {"engine_failure": 6, "shed": 8}
    assert high.tdg_ratio == pytest.approx(2 / 16)
    assert high.slo_attainment == 0.0
    assert report.errors == {"connection lost": 1, "HTTP 429: busy": 1}


def test_latencies_are_none_when_no_request_got_that_far() -> None:
    report = judge([_record(LOW, output=3, error="refused")])
    assert report.total.ttft_p50_s is None
    assert report.total.tpot_p99_s is None


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None
