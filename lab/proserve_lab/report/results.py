"""Looking results up by what was simulated."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import BOUND, OURS, Cell, Circumstances, policy_names

HEAVY, LIGHT = "high", "low"
"""The classes of the default mix, weights 2 and 1."""
_BOUND_OF = {"h100-256": "h100", "blocks": "h100"}
"""Scenarios that differ from another only in having less room: no more can be earned in them."""


class Place(msgspec.Struct, frozen=True):
    """Where policies are compared: one set of circumstances."""

    scenario: str
    workload: str
    load: float

    def __str__(self) -> str:
        return f"{self.scenario} {self.workload} {self.load:g}"


def places(circumstances: Sequence[Circumstances]) -> Iterator[Place]:
    for item in circumstances:
        for workload in item.workloads:
            for load in item.loads:
                yield Place(item.scenario, workload, load)


class Results:
    """All results of a report; what is missing is None."""

    def __init__(self, by_key: Mapping[str, CellResult]) -> None:
        self._by_key = by_key

    def find(self, place: Place, policy: str, variant: str = "") -> CellResult | None:
        cell = Cell(scenario=place.scenario, workload=place.workload, load=place.load, policy=policy, variant=variant)
        return self._by_key.get(cell.key)

    def tdg(self, place: Place, policy: str, variant: str = "") -> float | None:
        found = self.find(place, policy, variant)
        return None if found is None else found.tdg_ratio

    def slo(self, place: Place, policy: str, variant: str = "") -> float | None:
        found = self.find(place, policy, variant)
        return None if found is None else found.slo_attainment

    def class_tdg(self, place: Place, policy: str, name: str) -> float | None:
        found = self.find(place, policy)
        figures = None if found is None else found.classes.get(name)
        return None if figures is None else figures.tdg_ratio

    def class_slo(self, place: Place, policy: str, name: str) -> float | None:
        found = self.find(place, policy)
        figures = None if found is None else found.classes.get(name)
        return None if figures is None else figures.slo_attainment

    def bound(self, place: Place, variant: str = "") -> float | None:
        """An upper bound of what any policy earns in the place."""
        scenario = _BOUND_OF.get(place.scenario, place.scenario)
        return self.tdg(msgspec.structs.replace(place, scenario=scenario), BOUND, variant)

    def best_other(self, place: Place) -> tuple[str, float] | None:
        """The best policy beside ours, and its gain."""
        found = [
            (value, policy)
            for policy in policy_names()
            if policy != OURS and (value := self.tdg(place, policy)) is not None
        ]
        if not found:
            return None
        value, policy = max(found)
        return policy, value
