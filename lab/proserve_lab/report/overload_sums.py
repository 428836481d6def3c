"""Our gain over each other policy in overload, summed over traces and loads, and the most that any policy could have.

A relative aim can lie beyond what the engine can do: the bound of the same places says how much is left above a rival.
"""

from collections.abc import Sequence

import msgspec

from proserve_lab.report.cells import GRID, OURS, policy_names
from proserve_lab.report.markdown import MISSING, percent, ratio, table
from proserve_lab.report.other_tables import ABLATION_PLACES
from proserve_lab.report.results import Place, Results
from proserve_lab.report.standing import OVERLOADED, overload_places

CLOSE_RIVALS = ("qoserve", "density")
"""The best of the published policies: on H100 a tenth above them is aimed at, on A100 a fifth."""
_OTHERS_AIM = 0.35
PUBLISHED_STARVATION = {
    "authors' code": "starvation: late by a TTFT",
    "paper": "starvation: wait 10 s",
}
"""Variants of `slide-batching` with the starvation rules that it was published with."""


class Lead(msgspec.Struct, frozen=True, kw_only=True):
    """Sum of our gain over that of a policy, less 1, in the overload places of a scenario."""

    scenario: str
    policy: str
    value: float | None
    """None without any place where both were run."""
    most: float | None
    """The same of a policy that reaches the bound everywhere; None while a bound is missing."""
    complete: bool
    """Whether both were run in every place."""

    @property
    def aim(self) -> float:
        if self.policy not in CLOSE_RIVALS:
            return _OTHERS_AIM
        return 0.20 if self.scenario == "a100" else 0.10

    @property
    def possible(self) -> bool:
        """Whether some policy may reach the aim, as far as the bound tells."""
        return self.most is None or self.most >= self.aim


def other_rivals() -> tuple[str, ...]:
    return tuple(policy for policy in policy_names() if policy not in (OURS, *CLOSE_RIVALS))


def lead(results: Results, scenario: str, policy: str) -> Lead:
    spots = overload_places(scenario)
    both = [spot for spot in spots if _known(results, spot, policy)]
    bounds = [results.bound(spot) for spot in both]
    known = [value for value in bounds if value is not None]
    return Lead(
        scenario=scenario,
        policy=policy,
        value=relative_gain(results, both, policy),
        most=_over(sum(known), results, both, policy) if both and len(known) == len(both) else None,
        complete=len(both) == len(spots),
    )


def leads(results: Results) -> list[Lead]:
    """Over every other policy in every scenario of the grid."""
    return [lead(results, item.scenario, policy) for policy in policy_names() if policy != OURS for item in GRID]


def relative_gain(results: Results, spots: Sequence[Place], policy: str, variant: str = "") -> float | None:
    """Sum of our gain over that of `policy` in places where both were run, less 1."""
    both = [spot for spot in spots if _known(results, spot, policy, variant)]
    return _over(sum(results.tdg(spot, OURS) or 0.0 for spot in both), results, both, policy, variant)


def _over(total: float, results: Results, spots: Sequence[Place], policy: str, variant: str = "") -> float | None:
    theirs = sum(results.tdg(spot, policy, variant) or 0.0 for spot in spots)
    return total / theirs - 1 if theirs > 0 else None


def _known(results: Results, spot: Place, policy: str, variant: str = "") -> bool:
    return results.tdg(spot, OURS) is not None and results.tdg(spot, policy, variant) is not None


def sums_table(results: Results) -> str:
    found = leads(results)
    rows = [
        [f"`{policy}`", *[_cell(item) for item in found if item.policy == policy]]
        for policy in policy_names()
        if policy != OURS
    ]
    return "\n\n".join(
        [
            f"Gain of `{OURS}` over each other policy in overload: sums over the traces and the loads from "
            f"{OVERLOADED:g} on, relative. In brackets what a policy that reaches the clairvoyant bound in every place "
            "would have, so no policy can have more; `?` where bounds are missing. Aimed at: +10% over `qoserve` and "
            "`density` on H100, +20% on A100, +35% over every other. *Missed*: another policy might do it; "
            "*impossible*: the bound says that none can. A relative gain over a policy that earns hardly anything is a "
            "large number that says little: the tables below have both figures.",
            table(["policy", *[item.scenario for item in GRID]], rows),
            _published_starvation(results),
        ]
    )


def _cell(item: Lead) -> str:
    if item.value is None:
        return MISSING
    text = f"{percent(item.value)} ({'?' if item.most is None else percent(item.most)})"
    if item.value < item.aim:
        text += " missed" if item.possible else " impossible"
    return text if item.complete else text + ", some places not run"


def published_slide(results: Results) -> float | None:
    """Our gain over `slide-batching` with the authors' starvation rule, in the places of its ablation."""
    return relative_gain(results, ABLATION_PLACES, "slide-batching", PUBLISHED_STARVATION["authors' code"])


def _published_starvation(results: Results) -> str:
    """SlideBatching with the rules that it was published with, where they were run."""
    rows: list[list[str]] = []
    for name, variant in {"ours: off (default here)": "", **PUBLISHED_STARVATION}.items():
        spots = [spot for spot in ABLATION_PLACES if _known(results, spot, "slide-batching", variant)]
        if not spots:
            rows.append([name, MISSING, MISSING, MISSING, "0"])
            continue
        theirs = sum(results.tdg(spot, "slide-batching", variant) or 0.0 for spot in spots) / len(spots)
        ours = sum(results.tdg(spot, OURS) or 0.0 for spot in spots) / len(spots)
        lead_text = percent(relative_gain(results, spots, "slide-batching", variant))
        rows.append([name, ratio(theirs), ratio(ours), lead_text, str(len(spots))])
    return (
        "`slide-batching` runs without the starvation rule that it was published with, because that rule makes it "
        "collapse under overload (*Ablations*), so the table above compares with a policy that is better than the "
        "published one. With the rule, means over the places of the ablations:\n\n"
        + table(["starvation rule", "`slide-batching`", f"`{OURS}`", "gain over it", "places"], rows)
    )
