"""Keeping results when their code has changed and decides as before.

A refactoring makes every result outdated, although none of them would come out differently, and running all cells again
takes hours. Instead a sample of them is run again, drawn at random from all scenarios and all policies. When every
figure is as it was, the others are taken for results of the present code and say so (`CellResult.carried`); when one
differs, nothing is carried over. A change that shows in few cells may be missed: a change of decisions on purpose wants
its cells run again.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell

_NOT_DECIDED = {"fingerprint", "carried", "plan_us", "cpu_s"}
"""Fields that code does not decide: what is known of the code itself, and times of the machine."""


Fingerprint: TypeAlias = Callable[[Cell], str]
"""Of a cell's code and inputs, as its report has it."""


def outdated_cells(cells: Iterable[Cell], results: Mapping[str, CellResult], fingerprint: Fingerprint) -> list[Cell]:
    """Cells with a result of other code."""
    return [
        cell
        for cell in cells
        if (found := results.get(cell.key)) is not None and found.fingerprint != fingerprint(cell)
    ]


def draw_sample(cells: Sequence[Cell], count: int, fingerprint: Fingerprint) -> list[Cell]:
    """`count` of `cells`, or as many more as it takes to have one of each policy and of each scenario.

    Another change of the code draws other cells; the same change the same ones.
    """
    shuffled = sorted(cells, key=lambda cell: cell.key)
    random.Random("".join(map(fingerprint, shuffled))).shuffle(shuffled)
    seen: set[tuple[str, str]] = set()
    chosen: list[Cell] = []
    for cell in shuffled:
        kinds = {("policy", cell.policy), ("scenario", cell.scenario)}
        if not kinds <= seen:
            seen |= kinds
            chosen.append(cell)
    taken = {cell.key for cell in chosen}
    others = [cell for cell in shuffled if cell.key not in taken]
    return chosen + others[: max(0, count - len(chosen))]


def differences(stored: CellResult, again: CellResult) -> list[str]:
    """Figures of a cell that came out differently, each with its values."""
    return [
        f"{name} {after} (was {before})"
        for name in CellResult.__struct_fields__
        if name not in _NOT_DECIDED and (before := getattr(stored, name)) != (after := getattr(again, name))
    ]


def carried_over(
    cells: Iterable[Cell], results: Mapping[str, CellResult], fingerprint: Fingerprint, *, checked: int
) -> list[CellResult]:
    """The outdated results of `cells` as results of the present code, for which `checked` others were run again."""
    return [
        msgspec.structs.replace(
            results[cell.key],
            fingerprint=fingerprint(cell),
            # Carried before: only as well proven as then.
            carried=min(checked, results[cell.key].carried or checked),
        )
        for cell in cells
    ]


def carried_note(by_key: Mapping[str, CellResult]) -> str:
    """Which results are of older code, for the head of a document; empty if none is."""
    checked = [found.carried for found in by_key.values() if found.carried]
    if not checked:
        return ""
    return (
        f" {len(checked)} of them were computed by an earlier version of the code; {min(checked)} others, chosen at "
        "random, were computed again after the change with identical figures, plan times apart."
    )
