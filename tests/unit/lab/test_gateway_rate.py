"""The benchmark's own arithmetic and refusals; its figures are no tests."""

import json

import pytest

from proserve_core.resources import parse_resources
from proserve_lab.bench import gateway_rate
from proserve_lab.bench.gateway_rate import BenchError, RateResult


def test_ratio_is_the_median_of_neighbouring_turns() -> None:
    result = RateResult(gateway_rps=[100, 400, 90], nginx_rps=[200, 500, 300], upstream_rps=[900, 900, 900])
    assert result.ratio == pytest.approx(0.5)
    assert "ratio 0.50, target >= 0.45 (met)" in gateway_rate.report(result)


def test_missed_target_is_called_missed() -> None:
    result = RateResult(gateway_rps=[10.0], nginx_rps=[100.0], upstream_rps=[900.0])
    assert "(missed)" in gateway_rate.report(result)


def test_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "wrk" else f"/usr/bin/{tool}")
    with pytest.raises(BenchError, match="wrk is not installed"):
        gateway_rate.run(turns=1, seconds=1)


def test_request_and_reply_have_the_stated_sizes() -> None:
    body = gateway_rate._wrk_script().split("wrk.body = '")[1].rsplit("'", 1)[0]
    assert len(body) == gateway_rate.REQUEST_BYTES
    assert json.loads(body)["model"] == "bench"
    assert len(gateway_rate._reply()) == gateway_rate.REPLY_BYTES


def test_resources_of_the_benchmark_are_valid() -> None:
    parse_resources({"bench.yaml": gateway_rate._resources(8000)}, require_pools=True, require_tenants=True)
