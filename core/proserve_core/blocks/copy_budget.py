"""How many blocks a step may restore: the rules that go by rank. What is left is computed again as prefill.

Source: ProServe, section 4.3, in the form the authors' engine has it (xLLM, HEAD of 2026-08, off by default there):

- If computing takes the step's time budget anyway, copies may take as long as the budget.
- If all copies hide behind the compute that is left once they are there, all are made.
- Otherwise copies are traded for compute from the least important request upwards (`_needed_blocks`): each in turn gets
  the number of blocks that makes the longer of copy and compute shortest; the first that keeps any, or after which the
  copies hide, ends the walk.

The result is a number of blocks, used up from the most important request downwards, so that a request at its end is
restored in part. The paper has a binary search for each request's number, xLLM's HEAD tries all; a bisection gives the
same, as copy time grows and compute time does not (a test compares them). Ties go to more blocks.

Deviation: compute is the time of the whole step by our latency model, with its knee, instead of a sum over requests.
"""

from collections.abc import Sequence

from proserve_core.blocks.restore import Restorable, ResumeModel, turning_point
from proserve_core.blocks.transfer import CopyCosts
from proserve_core.latency import LatencyModel, StepWork


def allot(requests: Sequence[Restorable], *, budget_blocks: int, block_size: int) -> tuple[int, ...]:
    """Blocks that each request may restore when `budget_blocks` are used up in the order of `requests`.

    A fixed budget is this with a constant, an unlimited one is `unlimited`.
    """
    left = budget_blocks
    blocks: list[int] = []
    for request in requests:
        taken = min(left, request.usable(block_size))
        left -= taken
        blocks.append(taken)
    return tuple(blocks)


def unlimited(requests: Sequence[Restorable], *, block_size: int) -> int:
    """All blocks that can be restored."""
    return sum(request.usable(block_size) for request in requests)


def ranked_budget(requests: Sequence[Restorable], *, model: ResumeModel, base: StepWork, budget_s: float) -> int:
    """Blocks that the step may restore, by the published rule.

    Args:
        requests: those that would run in the step and have host blocks, most important first.
        model: of the engine; the rule has no use for its `overlap`.
        base: what else runs in the step.
        budget_s: the step's time budget.
    """
    block_size, costs = model.block_size, model.costs
    total = unlimited(requests, block_size=block_size)
    if total == 0:
        return 0
    step = _Step(model.latency, base)
    for request in requests:
        step.add(request, request.usable(block_size), block_size)
    compute_s = step.compute_s()
    if compute_s >= budget_s:
        return min(total, costs.blocks_within(budget_s))
    if costs.copy_s(total) <= compute_s:
        return total
    return _needed_blocks(requests, total, step, block_size, costs)


def _needed_blocks(requests: Sequence[Restorable], total: int, step: "_Step", block_size: int, costs: CopyCosts) -> int:
    """The walk from the least important request upwards. `step` has all requests with all their blocks restored."""
    copy_s, needed = costs.copy_s(total), total
    for request in reversed(requests):
        most = request.usable(block_size)
        if most == 0:
            continue
        copy_s -= most * costs.block_s
        needed -= most
        step.remove(request, most, block_size)
        kept = _kept_blocks(request, most, copy_s, step, block_size, costs)
        copy_s += kept * costs.block_s
        needed += kept
        step.add(request, kept, block_size)
        if kept > 0 or copy_s <= step.compute_s():
            break
    return needed


def _kept_blocks(
    request: Restorable, most: int, others_s: float, step: "_Step", block_size: int, costs: CopyCosts
) -> int:
    """Blocks of `request` to restore, 0..`most`, for the least max(copy, compute); `others_s`: copies without it."""

    def copy_s(blocks: int) -> float:
        return others_s + blocks * costs.block_s

    def compute_s(blocks: int) -> float:
        return step.with_request_s(request, blocks, block_size)

    # Before the turn compute is the longer and does not grow, from there on it is the copies, which do.
    turn = turning_point(most, lambda blocks: copy_s(blocks) <= compute_s(blocks))
    return min((min(turn, most), max(turn - 1, 0)), key=lambda blocks: max(copy_s(blocks), compute_s(blocks)))


class _Step:
    """Running sums of the step."""

    def __init__(self, latency: LatencyModel, base: StepWork) -> None:
        self._latency = latency
        self._new_tokens = base.new_tokens
        self._attention = base.attention
        self._context = base.decode_context
        self._sequences = base.sequences

    def add(self, request: Restorable, blocks: int, block_size: int) -> None:
        rest, attention = request.rest(blocks, block_size)
        self._new_tokens += rest
        self._attention += attention
        self._sequences += 1

    def remove(self, request: Restorable, blocks: int, block_size: int) -> None:
        rest, attention = request.rest(blocks, block_size)
        self._new_tokens -= rest
        self._attention -= attention
        self._sequences -= 1

    def with_request_s(self, request: Restorable, blocks: int, block_size: int) -> float:
        """Compute time if `request` joined with `blocks` restored."""
        rest, attention = request.rest(blocks, block_size)
        return self._latency.sums_s(
            self._new_tokens + rest, self._attention + attention, self._context, self._sequences + 1
        )

    def compute_s(self) -> float:
        return self._latency.sums_s(self._new_tokens, self._attention, self._context, self._sequences)
