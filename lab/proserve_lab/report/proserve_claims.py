"""What the ProServe paper claims of SlideBatching, and of the policies that it is compared with."""

from collections.abc import Callable
from itertools import pairwise

import msgspec

from proserve_lab.report.cells import ABLATION_SCENARIO, ALPHAS, GRID, SLIDE_ONLY
from proserve_lab.report.claim import OVERLOAD, Claim, Finding, Verdict, at, graded
from proserve_lab.report.other_tables import ABLATION_PLACES, alpha_figures, plan_share
from proserve_lab.report.overload_sums import PUBLISHED_STARVATION
from proserve_lab.report.pictures import BURST_PLACE
from proserve_lab.report.results import HEAVY, LIGHT, Place, Results, places
from proserve_lab.report.scenarios import BURST_ROWS, IDLE_S, requests_of

BASELINES = ("fcfs", "weighted-vtc", "sarathi", "sarathi-priority", "fair-batching")
"""Those of ProServe's evaluation."""
_ALIVE_GAIN, _ALIVE_SLO = 0.5, 0.25
"""A relative change is quoted only over baselines that have so much: over one near zero it says nothing."""
_CLOSE = 0.005
_FLAT = 0.02
_WITHOUT_BUDGET = "no time budget"
_PARTS = {"alpha 0.01": "nearly deadlines only", "density only": "density only", _WITHOUT_BUDGET: "no time budget"}
"""Variants that the paper's ablation has, and what they are called here."""
_Look = Callable[[Results], Callable[[Place, str], float | None]]


def _best_baseline(figure: Callable[[Place, str], float | None], spot: Place) -> float | None:
    """None unless all of them have been run."""
    values = [value for policy in BASELINES if (value := figure(spot, policy)) is not None]
    return max(values) if len(values) == len(BASELINES) else None


def _against_baselines(look: _Look, claimed: float, alive: float) -> Callable[[Results], Finding | None]:
    """slide-batching beside the best of the baselines in each overload place, chosen afterwards."""

    def check(results: Results) -> Finding | None:
        figure = look(results)
        pairs = [
            (slide, best, spot)
            for spot in OVERLOAD
            if (slide := figure(spot, "slide-batching")) is not None
            and (best := _best_baseline(figure, spot)) is not None
        ]
        if not pairs:
            return None
        ahead = sum(slide > best for slide, best, _ in pairs)
        means = [sum(values) / len(pairs) for values in zip(*((slide, best) for slide, best, _ in pairs), strict=True)]
        worst = min(pairs, key=lambda pair: pair[0] - pair[1])
        ours = (
            f"{means[0]:.3f} against {means[1]:.3f} in the mean, ahead in {ahead} of {len(pairs)} overloads; least "
            f"{worst[0]:.3f} against {worst[1]:.3f} ({at(worst[2])})"
        )
        enough = [pair for pair in pairs if pair[1] >= alive]
        if not enough:
            return Finding(f"{ours}; no baseline has {alive:g} anywhere", Verdict.PARTLY if ahead else Verdict.NOT)
        slide, best, spot = max(enough, key=lambda pair: pair[0] / pair[1])
        gain = slide / best - 1
        ours += (
            f"; up to {gain:+.0%} where a baseline has {alive:g} or more ({slide:.3f} against {best:.3f}, {at(spot)})"
        )
        return Finding(ours, _capped(graded(gain, claimed), ahead / len(pairs)))

    return check


def _capped(grade: Verdict, ahead: float) -> Verdict:
    """The best place alone makes no verdict: more than claimed needs the lead everywhere, as much needs most places."""
    if grade is Verdict.BETTER and ahead < 1:
        grade = Verdict.REPRODUCED
    return Verdict.PARTLY if grade is Verdict.REPRODUCED and ahead <= 0.5 else grade


def _published_rules(results: Results) -> Finding | None:
    """slide-batching with the starvation rules of paper and code, beside the best baseline."""
    said: list[str] = []
    ahead = 0
    for name, variant in PUBLISHED_STARVATION.items():
        pairs = [
            (slide, best)
            for spot in ABLATION_PLACES
            if (slide := results.tdg(spot, "slide-batching", variant)) is not None
            and (best := _best_baseline(results.tdg, spot)) is not None
        ]
        if not pairs:
            continue
        slide, best = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
        ahead += slide > best
        said.append(f"{name}: {slide:.3f} against {best:.3f} in the mean of {len(pairs)} overloads")
    return Finding("; ".join(said), Verdict.PARTLY if ahead else Verdict.NOT) if said else None


def _edf_collapses(results: Results) -> Finding | None:
    low, high = Place("h100", "azure-conv", 0.5), Place("h100", "azure-conv", 1.5)
    at_low, at_high, dense = results.tdg(low, "edf"), results.tdg(high, "edf"), results.tdg(high, "density")
    if at_low is None or at_high is None or dense is None:
        return None
    good = at_low > 0.95 and at_high < 0.5 * dense
    ours = f"azure-conv: {at_low:.3f} at 0.5, {at_high:.3f} at 1.5, where density has {dense:.3f}"
    return Finding(ours, Verdict.REPRODUCED if good else Verdict.NOT)


def _priority_starves(results: Results) -> Finding | None:
    shares = [
        (light / heavy, heavy - light, spot)
        for spot in OVERLOAD
        if (heavy := results.class_tdg(spot, "priority", HEAVY))
        and (light := results.class_tdg(spot, "priority", LIGHT)) is not None
    ]
    if not shares:
        return None
    starved = sum(share < 0.5 for share, _, _ in shares)
    spot = max(shares, key=lambda item: item[1])[2]
    heavy, light = (results.class_tdg(spot, "priority", name) or 0.0 for name in (HEAVY, LIGHT))
    ours = (
        f"light requests get less than half the share that heavy ones get in {starved} of {len(shares)} overloads; "
        f"most apart: {light:.3f} against {heavy:.3f} ({at(spot)})"
    )
    return Finding(ours, Verdict.REPRODUCED if starved > len(shares) / 2 else Verdict.PARTLY)


def _fcfs_is_blind(results: Results) -> Finding | None:
    gaps = [
        abs(heavy - light)
        for spot in OVERLOAD
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
    ours = f"slide-batching, fair-batching, sarathi at 0.5: within 2 points on {', '.join(close) or 'no trace'}" + (
        f"; points between them on the others: {', '.join(apart)}" if apart else ""
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
    first = next(later for earlier, later in pairwise(arrivals) if later - earlier >= IDLE_S)
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
    """Means over the places where every alpha was run."""
    full = [dict(values) for values in alpha_figures(results).values() if len(values) == len(ALPHAS) + 1]
    if not full:
        return None
    means = {alpha: sum(values[alpha] for values in full) / len(full) for alpha in full[0]}
    losses = [values[1.0] - values[ALPHAS[0]] for values in full]
    best = max(means.values())
    flat = [alpha for alpha, mean in means.items() if mean > best - _CLOSE]
    collapses = sum(loss > 0.1 for loss in losses)
    ours = (
        f"{means[ALPHAS[0]]:.3f} at {ALPHAS[0]:g}, {means[1.0]:.3f} at 1 in the mean of {len(full)} overloads; more "
        f"than 10 points lost in {collapses} of them; within half a point of the best: alpha {min(flat):g} to "
        f"{max(flat):g}"
    )
    if min(flat) <= 1 <= max(flat) and 2 * collapses > len(full):
        return Finding(ours, Verdict.REPRODUCED)
    return Finding(ours, Verdict.PARTLY if collapses else Verdict.NOT)


def _time_budget_matters(results: Results) -> Finding | None:
    """Parts of SlideBatching alone, means over the places where all of them were run."""
    gains = [
        {variant: results.tdg(spot, "slide-batching", variant) for variant in ("", *_PARTS)} for spot in ABLATION_PLACES
    ]
    full = [{variant: gain for variant, gain in one.items() if gain is not None} for one in gains]
    full = [one for one in full if len(one) == len(_PARTS) + 1]
    if not full:
        return None
    means = {variant: sum(one[variant] for one in full) / len(full) for variant in full[0]}
    parts = ", ".join(f"{name} {means[variant]:.3f}" for variant, name in _PARTS.items())
    ours = f"{parts}; whole {means['']:.3f}; mean of {len(full)} overloads"
    worst = min(_PARTS, key=lambda variant: means[variant])
    lost = means[""] - means[_WITHOUT_BUDGET]
    return Finding(
        ours, Verdict.REPRODUCED if worst == _WITHOUT_BUDGET else Verdict.PARTLY if lost > _CLOSE else Verdict.NOT
    )


def _weight_lifts(results: Results) -> Finding | None:
    """Weight 8 instead of 2 for the heavy class, means over the same places."""

    def figures(place: Place) -> list[float | None]:
        return [
            results.class_slo(place, "slide-batching", HEAVY),
            results.slo(place, "slide-batching"),
            results.class_tdg(place, "slide-batching", HEAVY),
        ]

    pairs = [
        figures(msgspec.structs.replace(place, scenario=ABLATION_SCENARIO)) + figures(place)
        for place in places(SLIDE_ONLY)
    ]
    full = [[value for value in pair if value is not None] for pair in pairs if None not in pair]
    if not full:
        return None
    slo, total, gain, slo_at_8, total_at_8, gain_at_8 = (sum(column) / len(full) for column in zip(*full, strict=True))
    ours = (
        f"weight 2 to 8: heavy requests in time {slo:.3f} to {slo_at_8:.3f}, all {total:.3f} to {total_at_8:.3f}; the "
        f"heavy class's gain {gain:.3f} to {gain_at_8:.3f}; mean of {len(full)} overloads"
    )
    if slo_at_8 > slo + _CLOSE and abs(total_at_8 - total) <= _FLAT:
        return Finding(ours, Verdict.REPRODUCED)
    lifted = slo_at_8 > slo + _CLOSE or gain_at_8 > gain + _CLOSE
    return Finding(ours, Verdict.PARTLY if lifted else Verdict.NOT)


def _plan_is_cheap(results: Results) -> Finding | None:
    share = plan_share(results, "slide-batching")
    if share is None:
        return None
    return Finding(f"{share:.2%} of a step", Verdict.REPRODUCED if share < 0.005 else Verdict.NOT)


def _gains(results: Results) -> Callable[[Place, str], float | None]:
    return results.tdg


def _attained(results: Results) -> Callable[[Place, str], float | None]:
    return results.slo


PROSERVE_CLAIMS: tuple[Claim, ...] = (
    Claim(
        source="ProServe", what="SlideBatching: gain over the best baseline", theirs="up to +35%",
        check=_against_baselines(_gains, 0.35, _ALIVE_GAIN),
        why="with the starvation rule off, as is our default. FCFS, weighted VTC, Sarathi and FairBatching work "
        "through their backlog and earn hardly anything under lasting overload; Sarathi with priorities is the "
        "baseline that counts",
        why_not="with the starvation rule off, as is our default. Sarathi with priorities leaves the light class alone "
        "and so keeps the heavy one in time, which is worth most where many short requests arrive (m-large)",
    ),
    Claim(
        source="ProServe", what="the same with the published starvation rule", theirs="up to +35%",
        check=_published_rules, why="rule as published",
        why_not="a starved request goes first although its first token earns nothing any more; under lasting overload "
        "somebody always starves, so the backlog is worked through in order of lateness, as FCFS does. How long and "
        "how heavy the paper's overload is, is not published",
    ),
    Claim(
        source="ProServe", what="SlideBatching: requests that meet both objectives, over the best baseline",
        theirs="up to +52%", check=_against_baselines(_attained, 0.52, _ALIVE_SLO),
        why="as for the gain",
        why_not="gain, not attainment, is what the policy maximises: late requests that can still earn are not given "
        "up",
    ),
    Claim(
        source="ProServe", what="EDF is fine at low load and collapses under overload", theirs="a figure", shape=True,
        check=_edf_collapses, why="the earliest deadline is that of who is late already",
        why_not="the trace has too little overload in its window",
    ),
    Claim(
        source="ProServe", what="strict priority starves light requests", theirs="a figure", shape=True,
        check=_priority_starves, why="light requests run when no heavy one waits",
        why_not="where heavy requests alone overload the engine they starve one another",
    ),
    Claim(
        source="ProServe", what="FCFS cannot tell classes apart", theirs="a figure", shape=True,
        check=_fcfs_is_blind, why="it sees arrivals only; what is left is the draw of the classes",
        why_not="the draw of the classes correlates with lengths",
    ),
    Claim(
        source="ProServe", what="at low load all policies coincide", theirs="a figure", shape=True,
        check=_low_load_coincides, why="everything can be met in any order",
        why_not="at half load a long prompt still makes others late where prompts are long or come in bursts, so order "
        "matters",
    ),
    Claim(
        source="ProServe", what="the share of Urgent rises in a burst and falls afterwards", theirs="a figure",
        shape=True, check=_urgent_rises, why="deadlines come near while requests queue",
        why_not="the backlog of the burst keeps requests urgent after it",
    ),
    Claim(
        source="ProServe", what="alpha 0.01 collapses at high load, 0.8 to 1 is best", theirs="a figure", shape=True,
        check=_alpha_matters, why="with a small alpha hardly anybody is urgent, so the order is by deadline",
        why_not="requests that are late already are urgent at any alpha, so under lasting overload the order hardly "
        "changes",
    ),
    Claim(
        source="ProServe", what="of its parts SlideBatching misses the time budget most", theirs="a figure",
        check=_time_budget_matters, why="steps of up to 8,192 tokens make every decode late",
        why_not="with fixed deadlines late requests stay late, so the order matters more than the length of steps",
    ),
    Claim(
        source="ProServe", what="a heavier weight lifts the heavy class, the total stays", theirs="a figure",
        check=_weight_lifts, why="with a larger weight heavy prompts pass shorter light ones",
        why_not="more of the heavy class is served, and keeps to its deadlines, which is all that gain asks; the mean "
        "time per token counts from the real first token, where such a decode has no lead and is late",
    ),
    Claim(
        source="ProServe", what="planning is cheap", theirs="0.17% of a step", check=_plan_is_cheap,
        why="a sort and a walk", why_not="Python against C++; an overloaded queue is hundreds of requests long",
    ),
)  # fmt: skip
