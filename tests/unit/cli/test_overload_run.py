"""What becomes of requests in a replay at many times the load, and which targets are named as missed."""

from proserve_cli.overload_run import CLASSES, OverloadResult, outcomes, report
from proserve_lab.replay import ReplayRecord, ReplayRequest


def record(
    name: str, *, tokens_s: list[float] | None = None, error: str | None = None, status: int | None = None
) -> ReplayRecord:
    request = ReplayRequest(
        id=name, arrival_s=0.0, prompt_tokens=10, output_tokens=2, terms=CLASSES[name][0].terms(), api_key="k"
    )
    return ReplayRecord(request=request, sent_s=0.0, tokens_s=tokens_s or [], error=error, status=status)


ON_TIME = [0.5, 0.6]


def result(*records: ReplayRecord, peak_mb: float = 80.0) -> OverloadResult:
    return OverloadResult(
        capacity_requests_per_s=10.0,
        overload=5.0,
        classes=outcomes(records),
        memory_begin_mb=70.0,
        memory_peak_mb=peak_mb,
    )


def test_answered_refused_and_lost_requests_are_told_apart() -> None:
    found = outcomes(
        [
            record("heavy", tokens_s=ON_TIME),
            record("light", error="HTTP 429", status=429),
            record("light", tokens_s=[0.5], error="error in the stream: engine failed", status=200),
            record("light", error="the connection ended"),
        ]
    )
    assert (found["heavy"].answered, found["heavy"].slo_attainment) == (1, 1.0)
    assert (found["light"].requests, found["light"].refused, found["light"].lost) == (3, 2, 1)
    assert found["middle"].requests == 0


def test_targets_that_are_missed_are_named() -> None:
    good = [record(name, tokens_s=ON_TIME) for name in CLASSES]
    assert result(*good).missed == []
    assert "missed: nothing" in report(result(*good))
    late = record("heavy", tokens_s=[30.0, 30.1])
    lost = record("light", error="the connection ended")
    assert result(late, lost, peak_mb=200.0).missed == [
        "the heavy class's objectives",
        "progress of every class",
        "nothing lost",
        "memory",
    ]
