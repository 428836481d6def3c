"""The demo's result: as tables for people, as one object for scripts."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from proserve_cli.demo_plan import HIGH, LOW, DemoPlan
from proserve_cli.engine_kind import EngineKind
from proserve_core.gain import LossCause
from proserve_lab.judgement import ClassReport, ReplayReport

WIDTH = 150


class DemoRun(msgspec.Struct, frozen=True, kw_only=True):
    """One replay under one policy."""

    run: int
    """1-based."""
    policy: str
    report: ReplayReport


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `proserve demo --json` prints."""

    engine: EngineKind
    engines: int
    trace: str
    plans: list[DemoPlan]
    """What was measured and chosen for each run."""
    runs: list[DemoRun]
    notes: list[str]
    """What a reader of the figures should know."""
    wall_s: float


def plan_lines(plan: DemoPlan) -> list[str]:
    """What was measured and chosen, in words."""
    return [
        f"measured: {plan.capacity_requests_per_s:.1f} requests/s ({plan.capacity_tokens_per_s:.0f} output tokens/s); "
        f"medians while busy: first token after {_ms(plan.probe_ttft_p50_s)}, {_ms(plan.probe_tpot_p50_s)} per token",
        f"chosen: {plan.requests} requests at {plan.rate:.1f}/s, {plan.load:g} times what the engines can do; "
        f"lengths of the trace divided by {plan.length_divisor:g}; seed {plan.seed}",
        *(
            f"class {each.name}: weight {each.weight}, first token within {_ms(each.objectives.ttft_s)}, "
            f"then {_ms(each.objectives.tpot_s)} per token"
            for each in plan.classes.values()
        ),
    ]


def print_result(result: DemoResult) -> None:
    """The tables, to stdout."""
    console = Console()
    if not console.is_terminal:
        # Eighty columns, the assumption for a file, would break every row.
        console = Console(width=WIDTH)
    several = max(run.run for run in result.runs) > 1
    console.print(_results(result.runs, several))
    console.print(_losses(result.runs, several))
    for line in [*result.notes, *_errors(result.runs), *_verdict(result.runs)]:
        console.print(line, highlight=False, markup=False)


def _results(runs: Sequence[DemoRun], several: bool) -> Table:
    table = Table(title="What arrived in time, as the clients saw it")
    _headings(table, several)
    for heading in ("requests", "gain", "SLO met", "TTFT p50", "TTFT p99", "per token p50", "per token p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        for name, report in _rows(run):
            table.add_row(
                *_place(run, name, several),
                str(report.requests),
                f"{report.tdg_ratio:.1%}",
                f"{report.slo_attainment:.1%}",
                *map(_ms, (report.ttft_p50_s, report.ttft_p99_s, report.tpot_p50_s, report.tpot_p99_s)),
                end_section=name == "total",
            )
    return table


def _losses(runs: Sequence[DemoRun], several: bool) -> Table:
    seen = {cause for run in runs for cause in run.report.total.lost}
    causes = [cause for cause in LossCause if cause.value in seen]
    table = Table(title="Where gain was lost, share of what could be earned")
    _headings(table, several)
    for cause in causes:
        table.add_column(cause.value.replace("_", " "), justify="right")
    for run in runs:
        for name, report in _rows(run):
            shares = [report.lost.get(cause.value, 0.0) / max(report.earnable_gain, 1e-9) for cause in causes]
            table.add_row(
                *_place(run, name, several), *(f"{share:.1%}" for share in shares), end_section=name == "total"
            )
    return table


def _headings(table: Table, several: bool) -> None:
    for heading in (*(("run",) if several else ()), "policy", "class"):
        table.add_column(heading, no_wrap=True)


def _rows(run: DemoRun) -> list[tuple[str, ClassReport]]:
    classes = run.report.classes
    return [*((name, classes[name]) for name in (HIGH, LOW) if name in classes), ("total", run.report.total)]


def _place(run: DemoRun, name: str, several: bool) -> list[str]:
    return [*([str(run.run)] if several else []), run.policy, name]


def _errors(runs: Sequence[DemoRun]) -> list[str]:
    return [
        f"run {run.run}, {run.policy}: {count} requests failed: {message}"
        for run in runs
        for message, count in run.report.errors.items()
    ]


def _verdict(runs: Sequence[DemoRun]) -> list[str]:
    """The gain of each class per policy, the mean over runs."""
    policies = list(dict.fromkeys(run.policy for run in runs))
    lines = []
    for name in (HIGH, LOW):
        parts = []
        for policy in policies:
            ratios = [
                run.report.classes[name].tdg_ratio
                for run in runs
                if run.policy == policy and name in run.report.classes
            ]
            if ratios:
                parts.append(f"{sum(ratios) / len(ratios):.1%} under {policy}")
        lines.append(f"{name} requests earned {', '.join(parts)}")
    return lines


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"
