"""What the papers claim, and what comes out here. Verdicts are computed; reasons are ours."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec

from proserve_lab.report.cells import ALPHAS, GRID
from proserve_lab.report.markdown import table
from proserve_lab.report.other_tables import FIDELITY_PLACES, HEAVY_LOADS, alpha_figures, plan_share
from proserve_lab.report.pictures import BURST_PLACE
from proserve_lab.report.results import HEAVY, LIGHT, Place, Results, places
from proserve_lab.report.scenarios import BURST_ROWS, IDLE_S, requests_of

PROSERVE_BASELINES = ("fcfs", "weighted-vtc", "sarathi", "sarathi-priority", "fair-batching")
"""Those of ProServe's evaluation."""
_OVERLOAD = tuple(spot for spot in places(GRID[:1]) if spot.load >= HEAVY_LOADS[0])


class Verdict(StrEnum):
    BETTER = "better"
    REPRODUCED = "reproduced"
    PARTLY = "in part"
    NOT = "not reproduced"
    UNKNOWN = "no results yet"


class Finding(msgspec.Struct, frozen=True):
    """What a claim comes to here."""

    ours: str
    verdict: Verdict


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    what: str
    theirs: str
    check: Callable[[Results], Finding | None]
    why_not: str
    """Shown when it is not reproduced, or in part."""


def claims_table(results: Results) -> str:
    rows: list[list[str]] = []
    for claim in CLAIMS:
        found = claim.check(results) or Finding("", Verdict.UNKNOWN)
        reason = claim.why_not if found.verdict in (Verdict.NOT, Verdict.PARTLY) else ""
        rows.append([claim.what, claim.source, claim.theirs, found.ours, found.verdict.value, reason])
    return table(["claim", "source", "there", "here", "verdict", "why"], rows, words=6)


def _against_baselines(figure: str, claimed: float) -> Callable[[Results], Finding | None]:
    """slide-batching over the best of ProServe's baselines in each overload place."""

    def check(results: Results) -> Finding | None:
        look_up = results.tdg if figure == "tdg" else results.slo
        changes: list[tuple[float, Place]] = []
        for spot in _OVERLOAD:
            slide = look_up(spot, "slide-batching")
            theirs = [value for policy in PROSERVE_BASELINES if (value := look_up(spot, policy)) is not None]
            if slide is not None and theirs and max(theirs) > 0:
                changes.append((slide / max(theirs) - 1, spot))
        if not changes:
            return None
        best, spot = max(changes, key=lambda item: item[0])
        middle = sorted(change for change, _ in changes)[len(changes) // 2]
        ours = f"{best:+.0%} at most ({spot.workload} {spot.load:g}), median {middle:+.0%}"
        return Finding(ours, _grade(best, claimed))

    return check


def _grade(value: float, claimed: float) -> Verdict:
    """Clearly more than claimed, about as much, something, or nothing."""
    if value >= 1.2 * claimed:
        return Verdict.BETTER
    if value >= 0.8 * claimed:
        return Verdict.REPRODUCED
    return Verdict.PARTLY if value > 0.01 else Verdict.NOT


def _edf_collapses(results: Results) -> Finding | None:
    low, high = Place("h100", "azure-conv", 0.5), Place("h100", "azure-conv", 1.5)
    figures = [results.tdg(low, "edf"), results.tdg(high, "edf"), results.tdg(high, "density")]
    if None in figures:
        return None
    at_low, at_high, dense = (value or 0.0 for value in figures)
    good = at_low > 0.95 and at_high < 0.5 * dense
    ours = f"azure-conv: {at_low:.3f} at 0.5, {at_high:.3f} at 1.5, where density has {dense:.3f}"
    return Finding(ours, Verdict.REPRODUCED if good else Verdict.NOT)


def _priority_starves(results: Results) -> Finding | None:
    shares = [
        (light / heavy, spot)
        for spot in _OVERLOAD
        if (heavy := results.class_tdg(spot, "priority", HEAVY))
        and (light := results.class_tdg(spot, "priority", LIGHT)) is not None
    ]
    if not shares:
        return None
    starved = sum(share < 0.5 for share, _ in shares)
    share, spot = min(shares, key=lambda item: item[0])
    ours = (
        f"light earn less than half of what heavy do in {starved} of {len(shares)} overloads; least {share:.2f} of it "
        f"({spot.workload} {spot.load:g})"
    )
    return Finding(ours, Verdict.REPRODUCED if starved > len(shares) / 2 else Verdict.PARTLY)


def _fcfs_is_blind(results: Results) -> Finding | None:
    gaps = [
        abs(heavy - light)
        for spot in _OVERLOAD
        if (heavy := results.class_tdg(spot, "fcfs", HEAVY)) is not None
        and (light := results.class_tdg(spot, "fcfs", LIGHT)) is not None
    ]
    if not gaps:
        return None
    ours = (
        f"heavy and light differ by {100 * sum(gaps) / len(gaps):.1f} points in the mean, {100 * max(gaps):.1f} at most"
    )
    return Finding(ours, Verdict.REPRODUCED if sum(gaps) / len(gaps) < 0.03 else Verdict.NOT)


def _low_load_coincides(results: Results) -> Finding | None:
    spreads: list[tuple[float, str]] = []
    for workload in GRID[0].workloads:
        spot = Place("h100", workload, 0.5)
        values = [results.tdg(spot, policy) for policy in ("slide-batching", "fair-batching", "sarathi")]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            spreads.append((max(known) - min(known), workload))
    if not spreads:
        return None
    close = [workload for spread, workload in spreads if spread < 0.02]
    apart = [f"{workload} {100 * spread:.0f}" for spread, workload in spreads if spread >= 0.02]
    ours = f"within 2 points at 0.5 on {', '.join(close) or 'no trace'}" + (
        f"; apart by {', '.join(apart)}" if apart else ""
    )
    verdict = Verdict.REPRODUCED if not apart else Verdict.PARTLY if close else Verdict.NOT
    return Finding(ours, verdict)


def _urgent_rises(results: Results) -> Finding | None:
    found = results.find(BURST_PLACE, "slide-batching")
    if found is None or not found.timeline:
        return None
    arrivals = [
        request.arrival_s for request in requests_of(BURST_PLACE.scenario, BURST_PLACE.workload, BURST_PLACE.load)
    ]
    first = next(at for last, at in pairwise(arrivals) if at - last >= IDLE_S)
    last = arrivals[arrivals.index(first) + BURST_ROWS - 1]
    before = [moment.urgent_share for moment in found.timeline if moment.second < first - IDLE_S]
    during = [moment.urgent_share for moment in found.timeline if first <= moment.second <= last]
    after = [moment.urgent_share for moment in found.timeline if moment.second >= arrivals[-1] - 2]
    if not (before and during and after):
        return None
    means = [sum(part) / len(part) for part in (before, during, after)]
    ours = f"{means[0]:.2f} of the requests before, {means[1]:.2f} in the burst, {means[2]:.2f} at the end"
    good = means[1] > 2 * means[0] and means[1] > 2 * means[2]
    return Finding(ours, Verdict.REPRODUCED if good else Verdict.PARTLY if means[1] > means[0] else Verdict.NOT)


def _alpha_matters(results: Results) -> Finding | None:
    losses = [
        (dict(values).get(1.0, 0.0) - dict(values)[ALPHAS[0]], spot)
        for spot, values in alpha_figures(results).items()
        if spot.load >= 2 and ALPHAS[0] in dict(values)
    ]
    if not losses:
        return None
    worst, spot = max(losses, key=lambda item: item[0])
    ours = f"alpha {ALPHAS[0]:g} loses {100 * worst:.1f} points at most ({spot.workload} {spot.load:g})"
    least = min(losses, key=lambda item: item[0])[0]
    verdict = Verdict.REPRODUCED if least > 0.1 else Verdict.PARTLY if worst > 0.1 else Verdict.NOT
    return Finding(ours, verdict)


def _plan_is_cheap(results: Results) -> Finding | None:
    share = plan_share(results, "slide-batching")
    if share is None:
        return None
    return Finding(f"{share:.2%} of a step", Verdict.REPRODUCED if share < 0.005 else Verdict.NOT)


def _goodput(policy: str, other: str, claimed: tuple[float, float]) -> Callable[[Results], Finding | None]:
    """Requests in time of `policy` over those of `other` under heavy load."""

    def check(results: Results) -> Finding | None:
        changes = [
            (mine / theirs - 1, spot)
            for spot in _OVERLOAD
            if (mine := results.slo(spot, policy)) is not None and (theirs := results.slo(spot, other))
        ]
        return _range(changes, claimed)

    return check


def _violations(results: Results) -> Finding | None:
    changes = [
        (1 - (1 - mine) / (1 - theirs), spot)
        for spot in _OVERLOAD
        if (mine := results.slo(spot, "sliding-serve")) is not None
        and (theirs := results.slo(spot, "qoserve")) is not None
        and theirs < 1
    ]
    return _range(changes, (0.16, 0.53))


def _range(changes: Sequence[tuple[float, Place]], claimed: tuple[float, float]) -> Finding | None:
    if not changes:
        return None
    at_least = [spot for change, spot in changes if change >= claimed[0]]
    by_trace = sorted({spot.workload for spot in at_least})
    low, high = min(change for change, _ in changes), max(change for change, _ in changes)
    ours = f"{low:+.0%} to {high:+.0%}; at least {claimed[0]:+.0%} in {len(at_least)} of {len(changes)} overloads" + (
        f" ({', '.join(by_trace)})" if by_trace else ""
    )
    if len(at_least) == len(changes):
        return Finding(ours, Verdict.BETTER if low > claimed[1] else Verdict.REPRODUCED)
    return Finding(ours, Verdict.PARTLY if at_least else Verdict.NOT)


def _predictor(results: Results) -> Finding | None:
    found = [
        value
        for spot in FIDELITY_PLACES
        if (result := results.find(spot, "sliding-serve")) is not None
        for value in result.fidelity.values()
        if value.batches >= 100
    ]
    if not found:
        return None
    least, worst_s = min(value.r2 for value in found), max(value.mae_s for value in found)
    good = least > 0.99 and worst_s <= 2.72e-3
    ours = f"R2 at least {least:.4f}, MAE at most {1000 * worst_s:.2f} ms"
    partly = sum(value.r2 > 0.99 and value.mae_s <= 2.72e-3 for value in found) > len(found) / 2
    return Finding(ours, Verdict.REPRODUCED if good else Verdict.PARTLY if partly else Verdict.NOT)


def _sliding_beats_greedy(results: Results) -> Finding | None:
    changes = [
        whole - greedy
        for workload in ("azure-conv", "mooncake-conversation", "m-large")
        for load in (1.2, 2.0)
        if (whole := results.tdg(Place("h100", workload, load), "sliding-serve")) is not None
        and (greedy := results.tdg(Place("h100", workload, load), "sliding-serve", "greedy chunk")) is not None
    ]
    if not changes:
        return None
    mean = sum(changes) / len(changes)
    ours = f"{100 * min(changes):+.1f} to {100 * max(changes):+.1f} points of gain, mean {100 * mean:+.1f}"
    good = min(changes) >= -0.005 and mean > 0.005
    return Finding(ours, Verdict.REPRODUCED if good else Verdict.PARTLY if mean > 0 else Verdict.NOT)


def _relegation(results: Results) -> Finding | None:
    changes = [
        whole / without - 1
        for workload in ("azure-conv", "mooncake-conversation", "m-large")
        for load in (1.2, 2.0)
        if (whole := results.slo(Place("h100", workload, load), "qoserve")) is not None
        and (without := results.slo(Place("h100", workload, load), "qoserve", "no relegation"))
    ]
    if not changes:
        return None
    mean = sum(changes) / len(changes)
    ours = f"{min(changes):+.0%} to {max(changes):+.0%} requests in time, mean {mean:+.0%}"
    return Finding(ours, _grade(mean, 0.09))


_LOW_LOAD_WHY = (
    "at half load a long prompt still makes others late where prompts are long or come in bursts, so order matters"
)
_SORTER_WHY = (
    "of the order of prompts the paper gives only the ingredients; QoServe weighs a deadline against 8 ms per token, "
    "so it serves short prompts first always, which pays where prompts are short and many"
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        source="ProServe", what="gain over the best baseline", theirs="up to +35%",
        check=_against_baselines("tdg", 0.35), why_not="overload is milder or baselines are stronger here",
    ),
    Claim(
        source="ProServe", what="SLO attainment over the best baseline", theirs="up to +52%",
        check=_against_baselines("slo", 0.52), why_not="gain, not attainment, is what the policy maximises",
    ),
    Claim(
        source="ProServe", what="EDF is fine at low load and collapses under overload", theirs="figure",
        check=_edf_collapses, why_not="the trace has too little overload in its window",
    ),
    Claim(
        source="ProServe", what="strict priority starves light requests", theirs="figure",
        check=_priority_starves, why_not="where heavy requests alone overload the engine they starve one another",
    ),
    Claim(
        source="ProServe", what="FCFS cannot tell classes apart", theirs="figure",
        check=_fcfs_is_blind, why_not="the draw of the classes correlates with lengths",
    ),
    Claim(
        source="ProServe", what="at low load all coincide", theirs="figure",
        check=_low_load_coincides, why_not=_LOW_LOAD_WHY,
    ),
    Claim(
        source="ProServe", what="the share of Urgent rises in a burst and falls afterwards", theirs="figure",
        check=_urgent_rises, why_not="the backlog of the burst keeps requests urgent after it",
    ),
    Claim(
        source="ProServe", what="alpha 0.01 collapses at high load, 0.8 to 1 is best", theirs="figure",
        check=_alpha_matters,
        why_not="requests that are late already are urgent at any alpha, so under lasting overload the order hardly "
        "changes",
    ),
    Claim(
        source="ProServe", what="planning is cheap", theirs="0.17% of a step", check=_plan_is_cheap,
        why_not="Python against C++; an overloaded queue is hundreds of requests long",
    ),
    Claim(
        source="SlidingServe", what="requests in time over QoServe", theirs="+9.7% to +30%",
        check=_goodput("sliding-serve", "qoserve", (0.097, 0.30)), why_not=_SORTER_WHY,
    ),
    Claim(
        source="SlidingServe", what="fewer violations than QoServe under heavy load", theirs="16% to 53% fewer",
        check=_violations, why_not=_SORTER_WHY,
    ),
    Claim(
        source="SlidingServe", what="predictor fidelity", theirs="R2 above 0.99, MAE up to 2.72 ms", check=_predictor,
        why_not="kinds of batches that hardly vary leave R2 little variance to explain",
    ),
    Claim(
        source="SlidingServe", what="two windows beat the greedy chunk", theirs="part of the above",
        check=_sliding_beats_greedy,
        why_not="with 50 ms between tokens and a knee at 7 ms the second window is rarely too short to be used",
    ),
    Claim(
        source="QoServe", what="requests in time over Sarathi (FCFS)", theirs="1.5 to 2.4 times the capacity",
        check=_goodput("qoserve", "sarathi", (0.5, 1.4)),
        why_not="there: highest load with 1% violations; here: requests in time under overload",
    ),
    Claim(
        source="QoServe", what="relegation", theirs="about +9%", check=_relegation,
        why_not="with shortest prompts first, as its key nearly is, hopeless prompts are last anyhow",
    ),
)  # fmt: skip
