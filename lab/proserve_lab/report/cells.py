"""The cells of the report: which policy runs under which circumstances, the most telling first."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import msgspec

from proserve_core.batching.registry import POLICIES
from proserve_lab.report.ablations import ABLATIONS
from proserve_lab.report.workloads import TRACES, lengths_tell

LOADS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0)
OVERLOADS = (1.2, 2.0)
OURS = "recoverable-gain"
BOUND = "bound"
"""Not a policy: the clairvoyant upper bound of the cell's gain."""
UNKNOWN = "lengths unknown"
"""Variant of the bound: for policies that know of outputs only what prompts say, in the mean over draws of lengths."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation."""

    scenario: str
    workload: str
    load: float
    policy: str
    variant: str = ""
    """Label of a policy with other options, or with a part replaced (`ablations`)."""
    options: tuple[tuple[str, object], ...] = ()

    @property
    def key(self) -> str:
        name = f"{self.policy}[{self.variant}]" if self.variant else self.policy
        return f"{self.scenario}/{self.workload}/{self.load:g}/{name}"


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario with the workloads and loads in which all policies are compared."""

    scenario: str
    workloads: tuple[str, ...]
    loads: tuple[float, ...]


GRID = (
    Circumstances(scenario="h100", workloads=TRACES, loads=LOADS),
    Circumstances(scenario="h100-256", workloads=TRACES, loads=OVERLOADS),
    Circumstances(scenario="a100", workloads=TRACES, loads=OVERLOADS),
    Circumstances(scenario="tight", workloads=TRACES, loads=OVERLOADS),
    Circumstances(scenario="wp10", workloads=TRACES, loads=OVERLOADS),
)
EXTRA = (
    Circumstances(scenario="burst", workloads=("azure-conv", "m-large"), loads=(2.0, 3.0)),
    Circumstances(scenario="mix-10-90", workloads=("azure-conv", "m-large"), loads=OVERLOADS),
    Circumstances(scenario="one-client", workloads=("m-large", "r1"), loads=OVERLOADS),
    Circumstances(scenario="objectives", workloads=("azure-conv", "m-large"), loads=OVERLOADS),
    Circumstances(scenario="long-h100", workloads=("azure-conv x8", "r1 x10"), loads=OVERLOADS),
    Circumstances(scenario="long-a100", workloads=("azure-conv x8", "r1 x10"), loads=OVERLOADS),
    Circumstances(scenario="noise", workloads=("azure-conv", "mooncake-conversation", "m-large"), loads=OVERLOADS),
    Circumstances(scenario="blocks", workloads=("azure-conv", "mooncake-conversation", "r1"), loads=(1.2,)),
    Circumstances(scenario="length-shift", workloads=("m-large", "r1", "azure-conv"), loads=OVERLOADS),
    Circumstances(scenario="h100-14b", workloads=("azure-conv", "mooncake-conversation"), loads=OVERLOADS),
    Circumstances(scenario="a100-14b", workloads=("azure-conv",), loads=OVERLOADS),
    Circumstances(scenario="noise-15", workloads=("azure-conv",), loads=OVERLOADS),
    Circumstances(scenario="short", workloads=("m-small",), loads=OVERLOADS),
)

STUDY_ONLY = (Circumstances(scenario="a100", workloads=TRACES, loads=(0.8,)),)
"""Outside the grid, but our prior simulation study has figures for them: our own policy alone runs here."""

ABLATION_SCENARIO = "h100"
ABLATION_WORKLOADS = ("azure-conv", "mooncake-conversation", "m-large")
SLIDE_ONLY = (Circumstances(scenario="weight-8", workloads=ABLATION_WORKLOADS, loads=OVERLOADS),)
"""What a paper shows of `slide-batching` alone."""
ALPHAS = (0.01, 0.1, 0.3, 0.5, 0.8, 1.2, 2.0)
"""Beside the default, 1."""

_Options = tuple[tuple[str, object], ...]
VARIANTS: dict[str, dict[str, _Options]] = {
    "slide-batching": {
        "deadline from first token": (("deadline", "first-token"),),
        "prompts among urgent decodes": (("decodes_first", False),),
        "starvation: wait 10 s": (("starvation", "wait"),),
        "starvation: late by a TTFT": (("starvation", "lateness"),),
        "skip over": (("skip", True),),
        "budget floor 0.3": (("budget_floor", 0.3),),
        "budget floor 1.0": (("budget_floor", 1.0),),
        "no time budget": (("budget_floor", 1000.0),),
        "density only": (("urgency", 1e9),),
        **{f"alpha {alpha:g}": (("urgency", alpha),) for alpha in ALPHAS},
        **{
            f"alpha {alpha:g}, starvation: wait 10 s": (("urgency", alpha), ("starvation", "wait"))
            for alpha in (0.01, 0.8)
        },
    },
    "sliding-serve": {
        "greedy chunk": (("sliding", False),),
        "no knapsack": (("knapsack", False),),
        "engine's predictor": (("own_predictor", False),),
    },
    "qoserve": {
        "a 2 ms": (("a", 0.002),),
        "no relegation": (("relegation", False),),
        "fixed deadline": (("deadline", "fixed"),),
    },
    OURS: dict.fromkeys(ABLATIONS, ()),
}
"""Ablations by policy: label and options; those of our own policy, which has no options, are made in `ablations`."""

# Contenders in the order in which their cells are run.
_FIRST = (OURS, "slide-batching", "qoserve", "density", "sliding-serve", "fcfs", "sarathi", "priority")


def policy_names() -> list[str]:
    """All policies of the registry, the most telling first."""
    return [*_FIRST, *sorted(set(POLICIES) - set(_FIRST))]


def contender_cells(circumstances: Sequence[Circumstances]) -> Iterator[Cell]:
    """All policies under all of these circumstances."""
    for policy in policy_names():
        for item in circumstances:
            for workload in item.workloads:
                for load in item.loads:
                    yield Cell(scenario=item.scenario, workload=workload, load=load, policy=policy)


def ablation_cells() -> Iterator[Cell]:
    for policy, variants in VARIANTS.items():
        for variant, options in variants.items():
            for workload in ABLATION_WORKLOADS:
                for load in OVERLOADS:
                    yield Cell(
                        scenario=ABLATION_SCENARIO,
                        workload=workload,
                        load=load,
                        policy=policy,
                        variant=variant,
                        options=options,
                    )


def bound_cells(grid: Sequence[Circumstances]) -> Iterator[Cell]:
    """The bound of every place."""
    for item in grid:
        for workload in item.workloads:
            for load in item.loads:
                yield Cell(scenario=item.scenario, workload=workload, load=load, policy=BOUND)


def unknown_bound_cells(grid: Sequence[Circumstances]) -> Iterator[Cell]:
    """The bound for unknown lengths, where lengths are what limits policies."""
    for item in grid:
        for workload in item.workloads:
            for load in item.loads:
                if not lengths_tell(workload, load):
                    yield Cell(scenario=item.scenario, workload=workload, load=load, policy=BOUND, variant=UNKNOWN)


def single_cells(policy: str, circumstances: Sequence[Circumstances]) -> Iterator[Cell]:
    """One policy where only that one is of interest."""
    for item in circumstances:
        for workload in item.workloads:
            for load in item.loads:
                yield Cell(scenario=item.scenario, workload=workload, load=load, policy=policy)


def all_cells() -> list[Cell]:
    """Everything the report needs, in the order in which it is run; h100-256 shares the bounds of h100."""
    with_bounds = [item for item in GRID[1:] if item.scenario != "h100-256"]
    return [
        *contender_cells(GRID[:1]),
        *bound_cells(GRID[:1]),
        *unknown_bound_cells(GRID[:1]),
        *single_cells(OURS, STUDY_ONLY),
        *contender_cells(GRID[1:]),
        *contender_cells(EXTRA),
        *ablation_cells(),
        *single_cells("slide-batching", SLIDE_ONLY),
        *bound_cells(with_bounds),
        *unknown_bound_cells(with_bounds),
    ]


def matching(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Cells whose key matches one of the globs, such as `h100/*/qoserve`; all without globs."""
    if not patterns:
        return list(cells)
    return [cell for cell in cells if any(fnmatchcase(cell.key, pattern) for pattern in patterns)]
