"""How many blocks each request that comes back may restore, step by step.

A step's plan says who comes back; with the adaptive budget these get the blocks that make the step shortest
(`gain_budget.shortest_step`). Whom no plan mentions, as when vLLM schedules alone, gets what is best for itself
in an otherwise empty step.
"""

import math
from collections.abc import Callable, Sequence

from proserve_core.blocks.copy_budget import allot, ranked_budget
from proserve_core.blocks.gain_budget import Return, shortest_step
from proserve_core.blocks.restore import Restorable, ResumeModel, best_split
from proserve_core.blocks.settings import CopyBudget
from proserve_core.latency import StepWork

AdaptiveRule = Callable[[Sequence[Restorable], StepWork, ResumeModel], Sequence[int]]
"""Blocks for each of those that come back in a step, most important first, beside other work of it."""


def shortest(returns: Sequence[Restorable], base: StepWork, model: ResumeModel) -> Sequence[int]:
    """The blocks that make the step shortest."""
    # Gain breaks ties only: of equals, the blocks of the least important are computed.
    ranked = [Return(request=request, gain=float(-place)) for place, request in enumerate(returns)]
    return shortest_step(ranked, model=model, base=base)[0]


def ranked(returns: Sequence[Restorable], base: StepWork, model: ResumeModel) -> Sequence[int]:
    """By rank, as published (`copy_budget`), in steps whose time budget computing does not fill."""
    blocks = ranked_budget(returns, model=model, base=base, budget_s=math.inf)
    return allot(returns, budget_blocks=blocks, block_size=model.block_size)


class ReturnBudget:
    """The rule of one engine. `adaptive`: what the adaptive budget goes by."""

    def __init__(self, rule: CopyBudget, *, copy_blocks: int, adaptive: AdaptiveRule = shortest) -> None:
        self._rule = rule
        self._adaptive = adaptive
        self._per_step = copy_blocks
        self._left = copy_blocks
        self._planned: dict[str, int] = {}

    def begin_step(self) -> None:
        """A step is put together."""
        self._left = self._per_step
        self._planned = {}

    def plan(self, returns: Sequence[Restorable], *, base: StepWork, model: ResumeModel) -> None:
        """The step runs `base`, and `returns` come back in it."""
        if self._rule is CopyBudget.ADAPTIVE and returns:
            blocks = self._adaptive(returns, base, model)
            self._planned = {r.request_id: taken for r, taken in zip(returns, blocks, strict=True)}

    def blocks(self, request: Restorable, model: ResumeModel) -> int:
        """Blocks that the request may restore if it comes back in this step."""
        usable = request.usable(model.block_size)
        if self._rule is CopyBudget.UNLIMITED:
            return usable
        if self._rule is CopyBudget.FIXED:
            return min(usable, self._left)
        planned = self._planned.get(request.request_id)
        return best_split(request, model=model).blocks if planned is None else min(usable, planned)

    def most(self, usable: int) -> int:
        """Blocks that a request with `usable` ones on the host may restore at most."""
        return min(usable, self._per_step) if self._rule is CopyBudget.FIXED else usable

    def taken(self, blocks: int) -> None:
        """A request came back with `blocks` restored."""
        self._left = max(0, self._left - blocks)
