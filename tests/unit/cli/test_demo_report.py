"""The demo's tables."""

import msgspec
import pytest

from proserve_cli.demo_plan import SETTINGS, make_plan
from proserve_cli.demo_report import DemoResult, DemoRun, plan_lines, print_result
from proserve_cli.engine_kind import EngineKind
from proserve_lab.judgement import judge
from proserve_lab.probe import Throughput
from proserve_lab.replay import ReplayRecord, ReplayRequest

PLAN = make_plan(
    [Throughput(requests_per_s=20.0, tokens_per_s=2000.0, ttft_p50_s=0.333, tpot_p50_s=0.015)],
    settings=SETTINGS[EngineKind.EMULATED], rows=1000, seed=0,
)  # fmt: skip


def record(name: str, *tokens_s: float, error: str | None = None) -> ReplayRecord:
    request = ReplayRequest(
        id="r", arrival_s=0.0, prompt_tokens=5, output_tokens=2, terms=PLAN.classes[name].terms(), api_key="k"
    )
    return ReplayRecord(request=request, sent_s=0.0, tokens_s=list(tokens_s), error=error)


def result(runs: int = 1) -> DemoResult:
    late = judge([record("interactive", 5.0, 5.01), record("batch", 0.1, 0.2)])
    good = judge([record("interactive", 0.1, 0.11), record("batch", error="HTTP 503: no engine")])
    return DemoResult(
        engine=EngineKind.EMULATED,
        engines=2,
        trace="t.csv",
        plans=[PLAN] * runs,
        runs=[
            each
            for number in range(1, runs + 1)
            for each in (
                DemoRun(run=number, policy="fcfs", report=late),
                DemoRun(run=number, policy="slide-batching", report=good),
            )
        ],
        notes=["a note"],
        wall_s=1.0,
    )


def test_the_tables_show_every_class_and_policy_and_count_failures(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(result())
    text = capsys.readouterr().out
    assert "interactive requests earned 0.0% under fcfs, 100.0% under slide-batching" in text
    assert "run 1, slide-batching: 1 requests failed: HTTP 503: no engine" in text
    assert "a note" in text
    for word in ("late first token", "engine failure", "5.00 s", "total"):
        assert word in text


def test_several_runs_are_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(result(runs=2))
    assert "run" in capsys.readouterr().out.splitlines()[2]


def test_the_chosen_load_and_objectives_are_said() -> None:
    text = "\n".join(plan_lines(PLAN))
    assert "20.0 requests/s" in text
    assert "class interactive: weight 4, first token within 1.00 s, then 30 ms per token" in text


def test_the_result_survives_json() -> None:
    data = msgspec.json.encode(result())
    assert msgspec.json.decode(data, type=DemoResult) == result()
