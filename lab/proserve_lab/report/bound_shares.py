"""How much of the bound our own policy reaches, and where how much is aimed at."""

from collections.abc import Callable

import msgspec

from proserve_lab.report.cells import GRID, OURS, UNKNOWN
from proserve_lab.report.markdown import ratio, table
from proserve_lab.report.results import Place, Results, places
from proserve_lab.report.workloads import lengths_tell


class BoundAim(msgspec.Struct, frozen=True, kw_only=True):
    """A share of a bound that is aimed at in some places."""

    variant: str
    """Of the bound."""
    share: float
    says: str
    wanted: Callable[[Place], bool]

    def places(self) -> list[Place]:
        """Where it is aimed at; h100-256 would count the bounds of h100 twice."""
        return [spot for spot in places([item for item in GRID if item.scenario != "h100-256"]) if self.wanted(spot)]

    def reached(self, results: Results, spot: Place) -> float | None:
        """Ours over the bound."""
        ours, bound = results.tdg(spot, OURS), results.bound(spot, self.variant)
        return ours / bound if ours is not None and bound else None


CLAIRVOYANT = BoundAim(
    variant="",
    share=0.90,
    says="Share of the clairvoyant bound that `{ours}` reaches, by load. {share:g} is aimed at where prompt lengths "
    "tell enough about output lengths (mooncake and r1 everywhere, azure-conv up to 1.2, m-large up to 1); elsewhere "
    "the figure is for information.",
    wanted=lambda spot: lengths_tell(spot.workload, spot.load),
)
LENGTHS_UNKNOWN = BoundAim(
    variant=UNKNOWN,
    share=0.95,
    says="The same of the bound for policies that know of output lengths what the prompt length says. {share:g} is "
    "aimed at in all other places. Clients and prefixes tell our policy more than this bound assumes, so more than 1 "
    "is possible.",
    wanted=lambda spot: not lengths_tell(spot.workload, spot.load),
)


def shares_tables(results: Results) -> str:
    found = [text for aim in (CLAIRVOYANT, LENGTHS_UNKNOWN) if (text := _shares(results, aim))]
    return "\n\n".join(found) or "The bound has not been computed for any place."


def _shares(results: Results, aim: BoundAim) -> str | None:
    """Ours over the bound in all places where both are known; None if there are none."""
    rows: list[list[str]] = []
    aims = set(aim.places())
    for item in GRID:
        for workload in item.workloads:
            cells: list[str] = []
            for load in GRID[0].loads:
                spot = Place(item.scenario, workload, load)
                reached = aim.reached(results, spot)
                missed = spot in aims and reached is not None and reached < aim.share
                cells.append("" if reached is None else ratio(reached) + (" missed" if missed else ""))
            if any(cells):
                rows.append([f"{item.scenario} {workload}", *cells])
    if not rows:
        return None
    return (
        aim.says.format(ours=OURS, share=aim.share)
        + "\n\n"
        + table(["trace", *[f"{load:g}" for load in GRID[0].loads]], rows)
    )
