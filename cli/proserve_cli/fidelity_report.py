"""The result of `proserve bench fidelity`: as a table for people, as one object for scripts."""

import msgspec
from rich.console import Console
from rich.table import Table

from proserve_cli.engine_kind import EngineKind
from proserve_cli.fidelity_counts import KvCounts
from proserve_core.latency import LatencyModel
from proserve_core.objectives import ServiceObjectives
from proserve_lab.fidelity import Agreement, StepErrors

WIDTH = 120


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """Engine and simulator under one policy."""

    policy: str
    gain: dict[str, Agreement]
    """By class, and `total`."""
    step_errors: StepErrors | None
    """Of the fitted step times; None for an emulated engine, which has no others."""
    counts: KvCounts | None = None
    """From the engine's start to the end of the last judged replay, where blocks are kept on the host."""
    simulated_counts: KvCounts | None = None


class FidelityResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `proserve bench fidelity --json` prints."""

    engine: EngineKind
    trace: str
    load: float
    rate: float
    """Requests per second."""
    requests: int
    """Per replay."""
    runs: int
    objectives: ServiceObjectives
    latency: LatencyModel
    """Step times from which rate and objectives follow."""
    policies: list[PolicyResult]
    notes: list[str]
    """What a reader of the figures should know."""
    wall_s: float


def print_result(result: FidelityResult) -> None:
    """The table, to stdout."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(
        title=f"Gain on the {result.engine} engine and in the simulator: {result.requests} requests of {result.trace} "
        f"at {result.rate:.1f}/s ({result.load:g} of saturation), {result.runs} run(s)"
    )
    for heading in ("policy", "class", "engine", "simulator", "difference", "runs", "target"):
        table.add_column(heading, justify="left" if heading in ("policy", "class") else "right")
    for each in result.policies:
        for name, gain in each.gain.items():
            differences = [100 * (a - b) for a, b in zip(gain.measured, gain.simulated, strict=True)]
            error = "" if gain.standard_error_points is None else f" ± {gain.standard_error_points:.2f}"
            table.add_row(
                each.policy,
                name,
                _mean(gain.measured),
                _mean(gain.simulated),
                f"{gain.difference_points:+.2f}{error}",
                " ".join(f"{one:+.1f}" for one in differences),
                f"{gain.target_points:g}, {'within' if gain.within else 'beyond'}",
                end_section=name == list(each.gain)[-1],
            )
    console.print(table)
    for each in result.policies:
        if each.step_errors is not None:
            errors = each.step_errors
            decodes = "" if errors.decode_bias is None else f" (without prompts {errors.decode_bias:+.1%})"
            console.print(
                f"{each.policy}: step times off by {errors.mape:.1%} (mean), 95% by at most "
                f"{errors.p95_s * 1e3:.1f} ms, all together by {errors.bias:+.1%}{decodes}; from one moment to another "
                f"the machine took {errors.factors[0]:.2f} to {errors.factors[1]:.2f} of that; the engine did not run "
                f"in {errors.waited:.1%} of the time of {errors.steps} steps",
                highlight=False,
            )
        for who, counts in (("engine", each.counts), ("simulator", each.simulated_counts)):
            if counts is not None:
                console.print(
                    f"{each.policy}: {who}: {counts.preemptions} preemptions, {counts.restored_blocks} blocks back, "
                    f"{counts.recomputed_tokens} tokens computed again, {counts.waited_s:.2f} s of waiting for copies",
                    highlight=False,
                )
    for note in result.notes:
        console.print(note, highlight=False, markup=False)


def _mean(ratios: list[float]) -> str:
    return f"{sum(ratios) / len(ratios):.2%}"
