"""Which blocks of residents are copied to the host ahead of preemption, step by step.

Carries out "Copying ahead" of docs/blocks.md: what the plan needs to know of the engine is watched here, the decisions
are those of `offload` and `preemption_risk`. Two things are guessed. How long a request still runs: as long again as it
has run so far, as far as its limit on output allows. And how long steps take: as lately.
"""

import msgspec

from proserve_core.blocks.offload import Offload, OffloadCandidate, OffloadCosts, plan_offloads
from proserve_core.blocks.preemption_risk import BlockDemand, RiskLevel, chance_within, preemption_probability
from proserve_core.blocks.transfer import CopyCosts
from proserve_core.latency import LatencyModel

CALL_S = 5e-5
"""Time that each copy takes from the engine's thread."""
LEAST_OUTPUT = 32
"""Output tokens that a request is taken to have before it, at least."""
STEP_MEMORY = 0.9


class Resident(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request on the device."""

    request_id: str
    blocks: int
    """Device blocks that it holds."""
    uncopied: int
    """Complete blocks that are neither on the host nor on their way there."""
    copying: bool
    """A copy to the host is under way: the next one waits for it."""
    context: int
    """Tokens computed."""
    pending: int
    """Tokens to compute before its next token comes out."""
    chunk: int
    """Tokens that it has in the coming step; 0: it pauses."""
    emitted: int
    """Output tokens so far."""
    most_output: int
    """Output tokens at which it ends, at the latest."""

    @property
    def steps_left(self) -> float:
        prefill = self.pending / max(1, self.chunk) if self.pending > 1 else 0.0
        return prefill + max(0, min(self.most_output - self.emitted, max(self.emitted, LEAST_OUTPUT)))


class CopyAhead:
    """Watches one engine's blocks and plans its copies to the host. Times are on the caller's clock."""

    def __init__(self, block_size: int) -> None:
        self.probability: dict[str, float] = {}
        """Of each resident: being preempted before it ends."""
        self._block_size = block_size
        self._demand = BlockDemand()
        self._level = RiskLevel()
        self._last: tuple[float, int] | None = None
        self._preempted = 0
        self._preempted_blocks = 0
        self._predicted: list[tuple[float, float]] = []
        self.step_s = 0.0
        """Time between steps, lately; 0 before the second one."""

    def preempted(self, blocks: int) -> None:
        """Somebody lost `blocks` device blocks since the last step."""
        self._preempted += 1
        self._preempted_blocks += blocks

    def step(self, *, now_s: float, used_blocks: int, idle: bool) -> None:
        """A step begins, with `used_blocks` device blocks in use; `idle`: nobody runs in it."""
        if self._last is not None and now_s > self._last[0]:
            elapsed_s, grown = now_s - self._last[0], used_blocks - self._last[1] + self._preempted_blocks
            self._demand.observe(grown, elapsed_s)
            predicted = sum(chance_within(p, horizon_s=h, elapsed_s=elapsed_s) for p, h in self._predicted)
            self._level.observe(predicted=predicted, happened=self._preempted, elapsed_s=elapsed_s)
            self.step_s = STEP_MEMORY * self.step_s + (1 - STEP_MEMORY) * elapsed_s if self.step_s else elapsed_s
        self._last = None if idle else (now_s, used_blocks)
        self._preempted = self._preempted_blocks = 0

    def plan(
        self,
        residents: list[Resident],
        *,
        free_blocks: int,
        latency: LatencyModel,
        offload: CopyCosts,
        restore: CopyCosts,
        under_way: int,
        next_evicted: str | None,
    ) -> tuple[Offload, ...]:
        """What to copy in the coming step.

        Args:
            residents: most important first; the last one is the next victim.
            free_blocks: device blocks that can be allocated without preempting anybody.
            offload, restore: costs of copies each way.
            under_way: blocks on their way to the host.
            next_evicted: who would lose a host block to the next one copied; None while the host has room.
        """
        self.probability = {}
        self._predicted = []
        if not self.step_s:
            return ()
        cushion = float(free_blocks)
        candidates: list[OffloadCandidate] = []
        for resident in reversed(residents):
            horizon_s = resident.steps_left * self.step_s
            probability = self._level.scaled(
                preemption_probability(cushion=cushion, horizon_s=horizon_s, demand=self._demand.rate)
            )
            cushion += resident.blocks
            self.probability[resident.request_id] = probability
            self._predicted.append((probability, horizon_s))
            if resident.copying or resident.uncopied <= 0:
                continue
            candidates.append(
                OffloadCandidate(
                    request_id=resident.request_id,
                    uncopied=resident.uncopied,
                    growth=resident.chunk / self._block_size / self.step_s,
                    probability=probability,
                    horizon_s=horizon_s,
                    saving_s=self._saving_s(resident.context, latency, offload, restore),
                )
            )
        if not candidates:
            return ()
        price_s = 0.0
        if next_evicted is not None:
            saving_s = sum(candidate.saving_s for candidate in candidates) / len(candidates)
            price_s = saving_s * self.probability.get(next_evicted, 1.0)
        return plan_offloads(
            candidates,
            costs=OffloadCosts(call_s=CALL_S, host_price_s=price_s),
            link=offload,
            hidden_s=self.step_s - offload.copy_s(under_way),
        )

    def _saving_s(self, context: int, latency: LatencyModel, offload: CopyCosts, restore: CopyCosts) -> float:
        """Engine seconds that a block on the host saves a request of `context` tokens that is preempted.

        Without it the step would wait for its copy, or the block be computed again, whichever takes less.
        """
        blocks = max(1.0, context / self._block_size)
        return min(latency.prefill_s(context) / blocks - restore.block_s, offload.block_s)
