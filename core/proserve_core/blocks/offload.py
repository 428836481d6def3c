"""When the uncopied blocks of a resident are copied to the host, and in which order.

ProServe (section 4.3) starts a copy when a request's uncopied blocks reach a threshold that is smaller for lower
priorities; it gives no values. Here the threshold follows from what copying costs and saves, in engine seconds on both
sides, so that the worth of an engine second cancels:

- A block that is on the host when its request is preempted saves `recompute_s - restore_s`. That happens with
  probability P before the request ends (`preemption_risk`).
- A block costs `block_s`, copy time that does not hide behind compute, and host space, which is what the block evicted
  for it (`BlockLedger.next_evicted`) would have saved: `host_price_s`. If `P * saving <= block cost`, copying does not
  pay at all.
- A copy costs `call_s`, whatever its size: work on the engine's thread that never hides.

Blocks complete at a rate g. Copying whenever u are there costs `call_s * g / u` per second. Until they are copied, u /
2 blocks on average are exposed to preemptions at rate `h = -ln(1 - P) / horizon`, each of which would cost the net
saving `v = saving - block cost / P`; so the loss is `h * v * u / 2` per second. The sum is least at

    u = sqrt(2 * call_s * g / (h * v))

which is Young's checkpoint interval (1974) in blocks: a checkpoint costs `call_s`, failures come at rate h. Likelier
preemption makes h and v larger and the threshold smaller; dearer calls make it larger.

Which of those that are due go first is a matter of the link: what it can move behind one step's compute goes to who
loses most without, `h * v * u`.
"""

import math
from collections.abc import Iterable

import msgspec

from proserve_core.blocks.transfer import CopyCosts


class OffloadCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What copying to the host costs, in engine seconds."""

    call_s: float
    """Time that each copy takes from the engine, however many blocks it moves."""
    block_s: float = 0.0
    """Time per block that does not hide behind compute. With a copy engine and a stream of its own it is the memory
    bandwidth taken from compute: 2 MiB at 3.35 TB/s are 0.6 us on an H100."""
    host_price_s: float = 0.0
    """Expected saving of the host block that is evicted for a new one; 0 while the host has free blocks."""


class OffloadCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A resident that could have blocks copied."""

    request_id: str
    uncopied: int
    """Complete blocks that are neither on the host nor on their way there."""
    growth: float
    """Blocks that it completes per second."""
    probability: float
    """Of being preempted before it ends."""
    horizon_s: float
    """Until then."""
    saving_s: float
    """Engine seconds that a copied block saves when the request is preempted: recompute minus restore."""


class Offload(msgspec.Struct, frozen=True):
    """Copy the first `blocks` uncopied blocks of a request."""

    request_id: str
    blocks: int


def exposure_loss(candidate: OffloadCandidate, costs: OffloadCosts) -> float:
    """Engine seconds lost per second and uncopied block, less what its copy costs: `h * v`; 0 or less: do not copy."""
    probability = candidate.probability
    if probability <= 0:
        return 0.0
    saving_s = candidate.saving_s - (costs.block_s + costs.host_price_s) / probability
    certain = probability >= 1 or candidate.horizon_s <= 0
    hazard = math.inf if certain else -math.log1p(-probability) / candidate.horizon_s
    return hazard * saving_s if saving_s != 0 else 0.0


def offload_threshold(candidate: OffloadCandidate, costs: OffloadCosts) -> int | None:
    """Uncopied blocks at which a copy starts, at least 1; None if copying does not pay.

    A request that completes no more blocks has nothing to wait for: 1.
    """
    return _threshold(candidate, costs, exposure_loss(candidate, costs))


def _threshold(candidate: OffloadCandidate, costs: OffloadCosts, loss: float) -> int | None:
    if loss <= 0:
        return None
    blocks = math.sqrt(2 * costs.call_s * candidate.growth / loss)
    return max(1, math.ceil(blocks)) if blocks < math.inf else None


def copy_worth(density: float, probability: float) -> float:
    """What a request's host blocks are worth to the ledger: gain per engine second, times the chance of use.

    `density` is the gain per engine second that the request can still bring, 0 if it is hopeless; `probability` that of
    being preempted, 1 for who has been.
    """
    return density * probability


def plan_offloads(
    candidates: Iterable[OffloadCandidate], *, costs: OffloadCosts, link: CopyCosts, hidden_s: float
) -> tuple[Offload, ...]:
    """Which blocks to copy in the coming step, dearest loss first.

    Args:
        candidates: residents; ties keep their order.
        costs: what copies cost the engine.
        link: what they take on the link.
        hidden_s: time on the link that hides behind the step. What does not fit waits for the next one.
    """
    due: list[tuple[float, OffloadCandidate]] = []
    for candidate in candidates:
        loss = exposure_loss(candidate, costs)
        threshold = _threshold(candidate, costs, loss)
        if threshold is not None and candidate.uncopied >= threshold:
            due.append((loss * candidate.uncopied, candidate))
    due.sort(key=lambda entry: -entry[0])
    offloads: list[Offload] = []
    for _, candidate in due:
        blocks = min(candidate.uncopied, link.blocks_within(hidden_s))
        if blocks <= 0:
            break
        offloads.append(Offload(candidate.request_id, blocks))
        hidden_s -= link.copy_s(blocks)
    return tuple(offloads)
