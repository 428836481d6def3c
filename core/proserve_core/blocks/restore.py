"""How a preempted request comes back: which of its blocks are restored from the host and which are computed again.

The request's first k host blocks are copied and the rest of its tokens is prefilled in the same step. Restored blocks
take time on the link and save prefill; the best k is somewhere between none and all. It is a prefix because attention
needs the blocks in front; at least one token is always computed, as the next token comes out of it.

How copy and forward pass overlap:

- `PIPELINED`: layer i computes while layer i + 1 arrives (ProServe, section 4.3). With L equal layers that is a flow
  shop of two machines: `copy/L + (L-1)/L * max(copy, forward) + forward/L`.
- `BLOCKING`: the forward pass starts when all blocks are there: `copy + forward`.

Exact without trying every k: prefill attention over the rest is `tokens^2 - prefix^2`, so for a given branch of the
step-time model (below or beyond its knee) and of the maximum, the time is concave in k and least at an end of that
branch. The ends are 0, 1, all, and both sides of the knee and of the point, found by bisection, where copies begin to
take longer than compute.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from enum import StrEnum

import msgspec

from proserve_core.blocks.transfer import CopyCosts
from proserve_core.latency import LatencyModel, StepWork


class Reload(StrEnum):
    PIPELINED = "Pipelined"
    BLOCKING = "Blocking"


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """How restores and the forward pass of their step overlap."""

    reload: Reload = Reload.PIPELINED
    layers: int = 1
    """Layers of the model, or ranges of layers that the engine waits for one by one."""

    def both_s(self, copy_s: float, forward_s: float) -> float:
        """Seconds until the forward pass is done when `copy_s` of copies start with it."""
        if copy_s <= 0:
            return forward_s
        if self.reload is Reload.BLOCKING:
            return copy_s + forward_s
        slower_s, faster_s = (copy_s, forward_s) if copy_s > forward_s else (forward_s, copy_s)
        return slower_s + faster_s / self.layers


StepSums = Callable[[float, float, float, int], float]
"""Seconds of a step from its new tokens, attention, decode context and sequences (`LatencyModel.sums_s`)."""


class ResumeModel(msgspec.Struct, frozen=True, kw_only=True):
    """What bringing requests back takes on one engine."""

    block_size: int
    """Tokens per block."""
    costs: CopyCosts
    """Of restoring, in the engine's way of copying; `block_s` is above 0."""
    latency: LatencyModel
    overlap: Overlap
    flush_block_s: float = 0.0
    """Seconds that a step waits per block of a victim that is not on the host yet."""

    def step_s(self, blocks: int, alone_s: float) -> float:
        """Duration of a step that restores `blocks` blocks and would take `alone_s` without them."""
        host_s = self.latency.host_s
        return host_s + self.overlap.both_s(self.costs.copy_s(blocks), alone_s - host_s)

    def step_with(self, blocks: int) -> StepSums:
        """The latency model's `sums_s` of steps that restore `blocks` blocks."""
        sums_s = self.latency.sums_s

        def with_copies_s(new_tokens: float, attention: float, decode_context: float, sequences: int) -> float:
            return self.step_s(blocks, sums_s(new_tokens, attention, decode_context, sequences))

        return with_copies_s


class Restorable(msgspec.Struct, frozen=True, kw_only=True):
    """A request that can come back."""

    request_id: str
    tokens: int
    """Prompt and emitted tokens: all that must be computed or restored before its next token."""
    host_blocks: int
    """Host blocks behind its device prefix."""
    device_tokens: int = 0
    """Tokens of its device prefix, a multiple of the block size."""

    def usable(self, block_size: int) -> int:
        """Blocks worth restoring: one token at least is computed."""
        return max(0, min(self.host_blocks, (self.tokens - 1 - self.device_tokens) // block_size))

    def rest(self, blocks: int, block_size: int) -> tuple[int, int]:
        """Tokens to compute when `blocks` are restored, and their attention in tokens squared."""
        prefix = self.device_tokens + blocks * block_size
        rest = self.tokens - prefix
        return rest, rest * (rest + 2 * prefix)


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How to bring a request back."""

    blocks: int
    """Blocks to restore."""
    tokens: int
    """Tokens to compute."""
    resume_s: float
    """Duration of the step that does both. The rest is taken for one prefill: where the engine spreads it over several
    steps, each adds its constant."""
    added_s: float
    """What this adds to the step."""


NOTHING = StepWork()
"""An otherwise empty step."""


def best_split(request: Restorable, *, model: ResumeModel, base: StepWork = NOTHING) -> Split:
    """The split that resumes soonest, next to work `base` of the same step; of equals the one that computes least."""
    size, costs, latency, overlap = model.block_size, model.costs, model.latency, model.overlap

    def forward_s(blocks: int) -> float:
        rest, attention = request.rest(blocks, size)
        return (
            latency.sums_s(base.new_tokens + rest, base.attention + attention, base.decode_context, base.sequences + 1)
            - latency.host_s
        )

    most = request.usable(size)
    candidates = {0, most}
    if most:
        to_knee = (base.new_tokens + request.rest(0, size)[0] - latency.knee_tokens) / size
        knee = int(to_knee) if 0 < to_knee < most else 0
        exposed = turning_point(most, lambda blocks: costs.copy_s(blocks) <= forward_s(blocks))
        candidates |= {1, knee, knee + 1, max(0, exposed - 1), min(most, exposed)}
    best, best_s = 0, math.inf
    for blocks in candidates:
        step_s = latency.host_s + overlap.both_s(costs.copy_s(blocks), forward_s(blocks))
        if step_s < best_s or (step_s == best_s and blocks > best):
            best, best_s = blocks, step_s
    return Split(
        blocks=best,
        tokens=request.rest(best, size)[0],
        resume_s=best_s,
        added_s=best_s - latency.step_s(base),
    )


def turning_point(most: int, holds: Callable[[int], bool]) -> int:
    """Least n of 0..`most` for which `holds` is false; `most + 1` if there is none. It is true first, then false."""
    return bisect_left(range(most + 1), True, key=lambda blocks: not holds(blocks))
