"""Memory of an engine's planning over a long run: whatever a request leaves behind would add up.

A replica runs for as many steps as wanted with a steady queue of short requests, so that nearly every step some arrive
and some leave; classes, clients and prompt lengths repeat. No time passes but the steps' own, and nothing is recorded.
The first tenth fills what is bounded by design (tables, length statistics); after it memory should not grow.
"""

import itertools
import random
from collections.abc import Callable

import msgspec

from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import make_policy
from proserve_core.clues import LengthClues
from proserve_core.latency import LatencyModel
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.replica import Replica

TARGET_BYTES = 1 << 20
"""Most growth after the first tenth."""
PENDING = 24
LIMITS = EngineLimits(block_size=16, blocks=400, max_sequences=16, max_step_tokens=1024)
_SAMPLES = 10


class MemoryResult(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes in use after each tenth of the steps."""

    policy: str
    steps: int
    requests: int
    """That came and went."""
    used_bytes: list[int]

    @property
    def growth_bytes(self) -> int:
        """From the end of the first tenth to the end."""
        return self.used_bytes[-1] - self.used_bytes[0]


def run(*, policy: str, steps: int, latency: LatencyModel, used_bytes: Callable[[], int]) -> MemoryResult:
    """Run `steps` steps.

    Args:
        steps: at least 10.
        used_bytes: memory in use now.
    """
    draw, numbers = random.Random(0), itertools.count()
    replica = Replica(policy=make_policy(policy), policy_name=policy, limits=LIMITS, latency=latency)
    terms = [
        ServiceTerms(
            priority_class=f"class-{weight}",
            weight=weight,
            first_token_gain=1,
            output_token_gain=1,
            objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.05),
        )
        for weight in (1, 2)
    ]
    now_s, number, used = 0.0, 0, list[int]()
    for step in range(1, steps + 1):
        while replica.pending < PENDING:
            number = next(numbers)
            replica.submit(
                request_id=f"request-{number}",
                terms=terms[number % 2],
                arrival_s=now_s,
                prompt_tokens=draw.randrange(1, 600),
                output_tokens=draw.randrange(1, 60),
                clues=LengthClues(client=f"client-{number % 50}", max_tokens=100),
            )
        started = replica.begin_step(now_s)
        if started is not None:
            now_s += started.duration_s
            replica.complete_step(now_s)
        if step * _SAMPLES // steps > len(used):
            used.append(used_bytes())
    return MemoryResult(policy=policy, steps=steps, requests=number + 1, used_bytes=used)


def report(result: MemoryResult) -> str:
    """One line with the growth next to its target."""
    met = "met" if result.growth_bytes <= TARGET_BYTES else "missed"
    return (
        f"{result.policy}: {result.steps} steps, {result.requests} requests, "
        f"{result.used_bytes[-1] / (1 << 20):.1f} MiB in the end, {result.growth_bytes / 1024:+.0f} KiB since the "
        f"first tenth, target <= {TARGET_BYTES // 1024} KiB ({met})"
    )
