"""What is simulated: trace rows with a class each."""

import random
from collections.abc import Mapping, Sequence

import msgspec

from proserve_core.clues import NO_CLUES, LengthClues
from proserve_core.objectives import PriorityClass, ServiceObjectives, ServiceTerms
from proserve_core.resources import Resources
from proserve_lab.trace import TraceRow


class SimulatedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a simulation, its true output length included."""

    id: str
    terms: ServiceTerms
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    clues: LengthClues = NO_CLUES
    tenant: str = ""


_DEFAULT_OBJECTIVES = ServiceObjectives(ttft_s=1.0, tpot_s=0.05)

DEFAULT_MIX: tuple[tuple[PriorityClass, float], ...] = (
    (PriorityClass(name="high", weight=2, objectives=_DEFAULT_OBJECTIVES), 0.5),
    (PriorityClass(name="low", weight=1, objectives=_DEFAULT_OBJECTIVES), 0.5),
)
"""Two classes, half of the requests each: the set-up of the papers (ProServe, section 6)."""


class MixError(ValueError):
    """The class file can't be used as a mix of classes."""


def class_mix(resources: Resources) -> tuple[tuple[PriorityClass, float], ...]:
    """Classes with their shares.

    Raises:
        MixError: no classes, or several classes without shares.
    """
    classes = resources.priority_classes
    shares: Mapping[str, float] = resources.class_shares
    if not classes:
        raise MixError("the file has no PriorityClass document: add at least one")
    if not shares:
        if len(classes) > 1:
            raise MixError(
                'classes have no shares: add the annotation `proserve.dev/share: "0.5"` to each PriorityClass'
            )
        return ((classes[0], 1.0),)
    return tuple((item, shares[item.name]) for item in classes)


def make_workload(
    rows: Sequence[TraceRow], *, mix: Sequence[tuple[PriorityClass, float]], seed: int
) -> list[SimulatedRequest]:
    """Give each row a class, drawn independently with `seed`."""
    draw = random.Random(seed)
    terms = [item.terms() for item, _ in mix]
    weights = [share for _, share in mix]
    width = len(str(max(0, len(rows) - 1)))
    return [
        SimulatedRequest(
            id=f"r{number:0{width}d}",
            terms=draw.choices(terms, weights)[0],
            arrival_s=row.arrival_s,
            prompt_tokens=row.prompt_tokens,
            output_tokens=row.output_tokens,
            clues=LengthClues(client=row.client, prefix=str(row.prefix_hash_ids[0]) if row.prefix_hash_ids else ""),
        )
        for number, row in enumerate(rows)
    ]
