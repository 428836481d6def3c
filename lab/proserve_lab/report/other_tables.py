"""Ablations, bursts, where gain is lost, predictor fidelity, plan time, SlidingServe against its rivals."""

from proserve_core.gain import LossCause
from proserve_lab.report.cells import (
    ABLATION_SCENARIO,
    ABLATION_WORKLOADS,
    ALPHAS,
    EXTRA,
    GRID,
    OURS,
    OVERLOADS,
    VARIANTS,
    policy_names,
)
from proserve_lab.report.markdown import MISSING, NOT_RUN, points, ratio, table
from proserve_lab.report.results import Place, Results, places

ABLATION_PLACES = tuple(
    Place(ABLATION_SCENARIO, workload, load) for workload in ABLATION_WORKLOADS for load in OVERLOADS
)
FIDELITY_PLACES = tuple(Place("h100", workload, 1.2) for workload in GRID[0].workloads)
NOISY_PLACES = tuple(spot for spot in places(EXTRA) if spot.scenario == "noise")
HEAVY_LOADS = (1.2, 1.5, 2.0)
RIVALS = ("sliding-serve", "qoserve", "sarathi")


def ablations(results: Results) -> str:
    """Each policy with one thing changed, and what that costs."""
    parts: list[str] = []
    for policy, variants in VARIANTS.items():
        rows = [["as it is", *[ratio(results.tdg(spot, policy)) for spot in ABLATION_PLACES], ""]]
        for variant in variants:
            values = [results.tdg(spot, policy, variant) for spot in ABLATION_PLACES]
            rows.append([variant, *map(ratio, values), points(ablation_effect(results, policy, variant))])
        headings = [f"`{policy}`", *[f"{spot.workload} {spot.load:g}" for spot in ABLATION_PLACES], "mean, points"]
        parts.append(table(headings, rows))
    return "\n\n".join(parts)


def ablation_effect(results: Results, policy: str, variant: str) -> float | None:
    """Mean change of the gain by the variant over the places where both are known."""
    changes = [
        changed - base
        for spot in ABLATION_PLACES
        if (changed := results.tdg(spot, policy, variant)) is not None
        and (base := results.tdg(spot, policy)) is not None
    ]
    return sum(changes) / len(changes) if changes else None


def alpha_figures(results: Results) -> dict[Place, list[tuple[float, float]]]:
    """Gain of `slide-batching` by alpha, ascending."""
    found: dict[Place, list[tuple[float, float]]] = {}
    for spot in ABLATION_PLACES:
        values = [(alpha, results.tdg(spot, "slide-batching", f"alpha {alpha:g}")) for alpha in ALPHAS]
        values.append((1.0, results.tdg(spot, "slide-batching")))
        found[spot] = [(alpha, value) for alpha, value in sorted(values) if value is not None]
    return found


def losses(results: Results) -> str:
    """Share of the possible gain lost by cause, at the highest overload."""
    parts: list[str] = []
    for workload in ("azure-conv", "mooncake-conversation", "m-large"):
        spot = Place("h100", workload, 2.0)
        rows: list[list[str]] = []
        for policy in policy_names():
            found = results.find(spot, policy)
            if found is not None:
                lost = [found.lost.get(cause.value, 0.0) for cause in _CAUSES]
                rows.append([f"`{policy}`", ratio(found.tdg_ratio), *map(ratio, lost)])
        headings = [f"{workload} 2", "earned", *[cause.value.replace("_", " ") for cause in _CAUSES]]
        parts.append(table(headings, rows))
    return "\n\n".join(parts)


_CAUSES = (
    LossCause.LATE_FIRST_TOKEN,
    LossCause.LATE_TOKEN_QUEUED,
    LossCause.LATE_TOKEN_PREEMPTED,
    LossCause.LATE_TOKEN_BATCHED,
)


def fidelity(results: Results) -> str:
    """How well SlidingServe's own predictor knows batch times, with exact and with noisy steps."""
    rows: list[list[str]] = []
    for spot in (*FIDELITY_PLACES, *NOISY_PLACES):
        found = results.find(spot, "sliding-serve")
        for kind, value in ({} if found is None else found.fidelity).items():
            rows.append(
                [
                    str(spot),
                    kind,
                    str(value.batches),
                    f"{value.r2:.4f}",
                    f"{1000 * value.mae_s:.3f}",
                    f"{1000 * value.p95_s:.3f}",
                ]
            )
    headings = ["trace", "kind of batch", "batches", "R2", "MAE, ms", "P95, ms"]
    return table(headings, rows, words=2) if rows else NOT_RUN


def corrections(results: Results) -> str:
    """The engine's online latency model on noisy steps, started with all coefficients too slow."""
    rows: list[list[str]] = []
    for spot in NOISY_PLACES:
        found = results.find(spot, OURS)
        for kind, value in ({} if found is None else found.corrections).items():
            rows.append(
                [
                    f"{spot.workload} {spot.load:g}",
                    kind,
                    str(value.learned.steps),
                    f"{100 * value.kept.mape:.1f}%",
                    f"{100 * value.learned.mape:.1f}%",
                    f"{1000 * value.learned.mae_s:.2f}",
                    f"{1000 * value.learned.p95_s:.2f}",
                ]
            )
    headings = ["trace", "kind of step", "steps", "MAPE at the start", "MAPE learned", "MAE, ms", "P95, ms"]
    return table(headings, rows, words=2) if rows else NOT_RUN


def plan_time(results: Results) -> str:
    """Median and 99th percentile over the H100 cells, and the share of the steps' time."""
    rows: list[list[str]] = []
    for policy in policy_names():
        found = [
            (result, plan)
            for spot in places(GRID[:1])
            if (result := results.find(spot, policy)) is not None and (plan := result.plan_us) is not None
        ]
        if not found:
            rows.append([f"`{policy}`", *[MISSING] * 4])
            continue
        medians = sorted(plan.p50 for _, plan in found)
        tails = sorted(plan.p99 for _, plan in found)
        rows.append(
            [
                f"`{policy}`",
                f"{medians[len(medians) // 2]:.0f}",
                f"{medians[-1]:.0f}",
                f"{tails[len(tails) // 2]:.0f}",
                f"{100 * (plan_share(results, policy) or 0.0):.2f}%",
            ]
        )
    return table(
        ["policy", "p50, median cell, us", "p50, worst cell, us", "p99, median cell, us", "share of a step"], rows
    )


def plan_share(results: Results, policy: str) -> float | None:
    """Median plan time over mean step time, median over the H100 cells."""
    shares = sorted(
        1e-6 * result.plan_us.p50 * result.steps / result.simulated_s
        for spot in places(GRID[:1])
        if (result := results.find(spot, policy)) is not None and result.plan_us is not None
    )
    return shares[len(shares) // 2] if shares else None


def rivals(results: Results) -> str:
    """SlidingServe, QoServe and Sarathi under heavy load: requests in time per second, and violations."""
    rows: list[list[str]] = []
    for workload in GRID[0].workloads:
        for load in HEAVY_LOADS:
            spot = Place("h100", workload, load)
            found = [results.find(spot, policy) for policy in (*RIVALS, OURS)]
            if not any(found):
                continue
            goodput = [MISSING if result is None else f"{result.slo_attainment * result.rate:.2f}" for result in found]
            missed = [MISSING if result is None else f"{1 - result.slo_attainment:.3f}" for result in found]
            rows.append([f"{workload} {load:g}", *goodput, *missed])
    names = [f"`{policy}`" for policy in (*RIVALS, OURS)]
    return table(
        ["trace, load", *[f"{name} in time/s" for name in names], *[f"{name} violations" for name in names]], rows
    )
