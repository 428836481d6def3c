"""What the SlidingServe and QoServe papers claim of their policies."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from proserve_lab.report.cells import GRID
from proserve_lab.report.claim import OVERLOAD, Claim, Finding, Verdict, at, graded
from proserve_lab.report.other_tables import ABLATION_PLACES, FIDELITY_PLACES, NOISY_PLACES
from proserve_lab.report.results import Place, Results

_IN_TIME = 0.9
"""Share of the requests that must meet both objectives at what counts as capacity."""
_R2, _MAE_S = 0.99, 2.72e-3
_ENOUGH_BATCHES = 100


class Pair(msgspec.Struct, frozen=True):
    """Two policies' shares in one place, and how they compare."""

    change: float
    mine: float
    theirs: float
    place: Place

    def __str__(self) -> str:
        return f"{self.change:+.0%} ({at(self.place)}: {self.mine:.3f} against {self.theirs:.3f})"


def _goodput(results: Results) -> Finding | None:
    """Requests in time of sliding-serve over those of qoserve under heavy load."""
    pairs = [
        Pair(mine / theirs - 1, mine, theirs, spot)
        for spot in OVERLOAD
        if (mine := results.slo(spot, "sliding-serve")) is not None and (theirs := results.slo(spot, "qoserve"))
    ]
    return _range(pairs, (0.097, 0.30))


def _violations(results: Results) -> Finding | None:
    """How many fewer requests miss an objective; a negative change here is a better one."""
    pairs = [
        Pair((1 - mine) / (1 - theirs) - 1, 1 - mine, 1 - theirs, spot)
        for spot in OVERLOAD
        if (mine := results.slo(spot, "sliding-serve")) is not None
        and (theirs := results.slo(spot, "qoserve")) is not None
        and theirs < 1
    ]
    return _range(pairs, (-0.16, -0.53))


def _range(pairs: Sequence[Pair], claimed: tuple[float, float]) -> Finding | None:
    """From the worst to the best place; `claimed` is the least and the most, negative when less is better."""
    if not pairs:
        return None
    sign = 1 if claimed[0] > 0 else -1
    ordered = sorted(pairs, key=lambda pair: sign * pair.change)
    enough = [pair for pair in pairs if sign * pair.change >= sign * claimed[0]]
    ours = f"{ordered[0]} to {ordered[-1]}; as much as claimed in {len(enough)} of {len(pairs)} overloads" + (
        f" ({', '.join(sorted({pair.place.workload for pair in enough}))})" if enough else ""
    )
    if len(enough) == len(pairs):
        beyond = sign * ordered[0].change > sign * claimed[1]
        return Finding(ours, Verdict.BETTER if beyond else Verdict.REPRODUCED)
    return Finding(ours, Verdict.PARTLY if enough else Verdict.NOT)


def _predictor(results: Results) -> Finding | None:
    """On exact steps, which says whether the features suffice, and on noisy ones, which says whether it lasts."""
    said: list[str] = []
    good: list[bool] = []
    for name, spots in (("exact steps", FIDELITY_PLACES), ("steps with 10% noise", NOISY_PLACES)):
        found = [
            value
            for spot in spots
            if (result := results.find(spot, "sliding-serve")) is not None
            for value in result.fidelity.values()
            if value.batches >= _ENOUGH_BATCHES
        ]
        if found:
            least, worst_s = min(value.r2 for value in found), max(value.mae_s for value in found)
            good.append(least > _R2 and worst_s <= _MAE_S)
            said.append(f"{name}: R2 at least {least:.4f}, MAE at most {1000 * worst_s:.2f} ms")
    if not said:
        return None
    # Exact steps alone prove little: the simulator's step times are of the family that is fitted.
    verdict = Verdict.REPRODUCED if len(good) > 1 and all(good) else Verdict.PARTLY if any(good) else Verdict.NOT
    return Finding("; ".join(said), verdict)


def _sliding_beats_greedy(results: Results) -> Finding | None:
    changes = [
        whole - greedy
        for spot in ABLATION_PLACES
        if (whole := results.tdg(spot, "sliding-serve")) is not None
        and (greedy := results.tdg(spot, "sliding-serve", "greedy chunk")) is not None
    ]
    if not changes:
        return None
    mean = sum(changes) / len(changes)
    ours = f"{100 * min(changes):+.1f} to {100 * max(changes):+.1f} points of gain, mean {100 * mean:+.1f}"
    good = min(changes) >= -0.005 and mean > 0.005
    return Finding(ours, Verdict.REPRODUCED if good else Verdict.PARTLY if mean > 0 else Verdict.NOT)


def _capacity(results: Results, workload: str, policy: str) -> float | None:
    """Highest load with `_IN_TIME` of the requests in time, a straight line between loads; None: below the lowest."""
    points = [
        (load, value)
        for load in GRID[0].loads
        if (value := results.slo(Place(GRID[0].scenario, workload, load), policy)) is not None
    ]
    for (low, before), (high, after) in pairwise(points):
        if before >= _IN_TIME > after:
            return low + (high - low) * (before - _IN_TIME) / (before - after)
    return points[-1][0] if points and points[-1][1] >= _IN_TIME else None


def _capacity_ratio(results: Results) -> Finding | None:
    """qoserve over sarathi, as the highest load that either carries."""
    ratios: list[float] = []
    said: list[str] = []
    neither: list[str] = []
    lowest = GRID[0].loads[0]
    for workload in GRID[0].workloads:
        lowest_place = Place(GRID[0].scenario, workload, lowest)
        if results.slo(lowest_place, "qoserve") is None or results.slo(lowest_place, "sarathi") is None:
            continue
        mine, theirs = _capacity(results, workload, "qoserve"), _capacity(results, workload, "sarathi")
        if mine is None and theirs is None:
            neither.append(workload)
            continue
        ratios.append((mine or lowest) / (theirs or lowest))
        sign = "" if mine and theirs else "more than " if mine else "less than "
        loads = " against ".join(f"below {lowest:g}" if value is None else f"{value:.2f}" for value in (mine, theirs))
        said.append(f"{workload} {sign}{ratios[-1]:.1f} times (load {loads})")
    if neither:
        said.append(f"both below {lowest:g} on {', '.join(neither)}")
    if not said:
        return None
    enough = sum(value >= 1.5 for value in ratios)
    verdict = Verdict.REPRODUCED if ratios and enough == len(ratios) else Verdict.PARTLY if enough else Verdict.NOT
    return Finding("; ".join(said), verdict)


def _relegation(results: Results) -> Finding | None:
    pairs = [
        (whole, without)
        for spot in ABLATION_PLACES
        if (whole := results.slo(spot, "qoserve")) is not None
        and (without := results.slo(spot, "qoserve", "no relegation")) is not None
    ]
    if not pairs:
        return None
    whole, without = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    gain = whole / without - 1 if without else 0.0
    ours = f"{whole:.3f} of the requests in time against {without:.3f} without, mean of {len(pairs)} overloads "
    f"({gain:+.0%})"
    return Finding(ours, graded(gain, 0.09))


_SORTER_WHY = (
    "of the order of prompts the paper gives only the ingredients; QoServe weighs a deadline against 8 ms per token, "
    "so it serves short prompts first always, which pays where prompts are short and many"
)

RIVAL_CLAIMS: tuple[Claim, ...] = (
    Claim(
        source="SlidingServe", what="requests in time over QoServe", theirs="+9.7% to +30%", check=_goodput,
        why="two windows and the knapsack", why_not=_SORTER_WHY,
    ),
    Claim(
        source="SlidingServe", what="violations beside QoServe under heavy load", theirs="16% to 53% fewer",
        check=_violations, why="two windows and the knapsack", why_not=_SORTER_WHY,
    ),
    Claim(
        source="SlidingServe", what="predictor fidelity", theirs="R2 above 0.99, MAE up to 2.72 ms", check=_predictor,
        why="the seven features are those that step times depend on",
        why_not="exact simulated steps show only that the seven features suffice; where steps are noisy, nobody can "
        "predict the noise, and kinds of batches that hardly vary leave R2 little to explain",
    ),
    Claim(
        source="SlidingServe", what="two windows beat the greedy chunk", theirs="part of the above",
        check=_sliding_beats_greedy, why="the second window is too short for what the first leaves",
        why_not="with 50 ms between tokens and a knee at 7 ms the second window is rarely too short to be used",
    ),
    Claim(
        source="QoServe", what="capacity over Sarathi (FCFS)", theirs="1.5 to 2.4 times, at 1% violations",
        check=_capacity_ratio,
        why="Sarathi serves in order of arrival, so one long prompt makes all behind it late",
        why_not="here: highest load with 10% violations, because at 1% hardly any trace has a load that either "
        "carries; their first tokens have 6 s, ours 1 s, which leaves no time for reordering",
    ),
    Claim(
        source="QoServe", what="relegation of hopeless prompts", theirs="about +9%", check=_relegation,
        why="a hopeless prompt costs others their deadline; their objectives are looser, so fewer are hopeless",
        why_not="with shortest prompts first, as its key nearly is, hopeless prompts are last anyhow",
    ),
)  # fmt: skip
