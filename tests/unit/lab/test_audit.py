"""Conservation of work: a replica that cheats is caught, whatever it cheats with."""

from typing import Any

import msgspec
import pytest

from engine_builders import H100_LLAMA_8B
from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import POLICIES, make_policy
from proserve_core.replica import Emission, Replica, StartedStep
from proserve_lab.simulation.audit import ConservationError
from proserve_lab.simulation.run import SimulationRun, simulate
from proserve_lab.simulation.workload import DEFAULT_MIX, make_workload
from proserve_lab.trace import TraceRow

TOO_FEW_BLOCKS = EngineLimits(block_size=16, blocks=120, max_sequences=64, max_step_tokens=256)


def run(kind: type[Replica] = Replica, *, policy: str = "fcfs", limits: EngineLimits = TOO_FEW_BLOCKS) -> SimulationRun:
    rows = [TraceRow(arrival_s=0.001 * n, prompt_tokens=300 + 7 * n, output_tokens=60) for n in range(30)]
    replica = kind(policy=make_policy(policy), policy_name=policy, limits=limits, latency=H100_LLAMA_8B)
    workload = make_workload(rows, mix=DEFAULT_MIX, seed=3)
    return simulate(workload, replicas=[replica])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_work_of_a_run_is_that_of_its_requests_and_what_preemption_cost(policy: str) -> None:
    result = run(policy=policy)
    needed = sum(300 + 7 * n + 60 - 1 for n in range(30))
    assert result.computed_tokens == needed + result.recomputed_tokens
    assert (result.recomputed_tokens > 0) == (result.preemptions > 0)


def test_the_engine_is_busy_for_as_long_as_its_steps_take() -> None:
    latency = msgspec.structs.replace(
        H100_LLAMA_8B,
        floor_s=0.0,
        linear_base_s=0.0,
        linear_token_s=0.0,
        attention_s=0.0,
        context_s=0.0,
        sequence_s=0.0,
    )
    replica = Replica(policy=make_policy("fcfs"), policy_name="fcfs", limits=TOO_FEW_BLOCKS, latency=latency)
    workload = make_workload([TraceRow(arrival_s=0, prompt_tokens=9, output_tokens=5)], mix=DEFAULT_MIX, seed=0)
    result = simulate(workload, replicas=[replica])
    assert result.busy_s == pytest.approx(5 * latency.host_s)


class Hurried(Replica):
    """Charges a little less than the work takes."""

    def begin_step(self, now_s: float) -> StartedStep | None:
        step = super().begin_step(now_s)
        return step and msgspec.structs.replace(step, duration_s=step.duration_s * 0.999)


class ForgetsWork(Replica):
    """Throws progress away, so that it is computed twice."""

    def complete_step(self, now_s: float) -> list[Emission]:
        emissions = super().complete_step(now_s)
        for request in self._table:
            if not request.emitted_tokens:
                request.computed_tokens = 0
        return emissions


class SkipsWork(Replica):
    """Takes half of a prompt as computed."""

    def complete_step(self, now_s: float) -> list[Emission]:
        for request in self._table:
            if request.resident and not request.emitted_tokens:
                request.computed_tokens = max(request.computed_tokens, request.prompt_tokens // 2)
        return super().complete_step(now_s)


class KeepsWorkOfVictims(Replica):
    """Preempts without losing anything."""

    def begin_step(self, now_s: float) -> StartedStep | None:
        computed = {request.id: request.computed_tokens for request in self._table}
        step = super().begin_step(now_s)
        for request_id in step.plan.preempt if step else ():
            self._table.by_id[request_id].computed_tokens = computed[request_id]
        return step


class LosesTokens(Replica):
    """Swallows what should have come out."""

    def complete_step(self, now_s: float) -> list[Emission]:
        return [emission for emission in super().complete_step(now_s) if emission.token != 7]


class InventsTokens(Replica):
    """Says a token twice."""

    def complete_step(self, now_s: float) -> list[Emission]:
        emissions = super().complete_step(now_s)
        return [*emissions, *emissions[:1]]


class EndsEarly(Replica):
    """Gives up on outputs before their length is reached."""

    def submit(self, *, output_tokens: int, **request: Any) -> None:
        super().submit(output_tokens=output_tokens - 1, **request)


class LeaksBlocks(Replica):
    """Does not give all blocks back."""

    def _remove(self, request_id: str, *, finished: bool) -> None:
        self._free_blocks -= 1
        super()._remove(request_id, finished=finished)


@pytest.mark.parametrize(
    ("cheat", "message"),
    [
        (Hurried, "was charged"),
        (ForgetsWork, "was charged|a step emitted"),
        (SkipsWork, "invented: r"),
        (KeepsWorkOfVictims, "was charged|a step emitted"),
        (LosesTokens, "lost: r"),
        (InventsTokens, "a step emitted"),
        (EndsEarly, "59 tokens emitted of 60"),
        (LeaksBlocks, "blocks free at the end"),
    ],
)
def test_a_replica_that_cheats_is_caught(cheat: type[Replica], message: str) -> None:
    with pytest.raises(ConservationError, match=message):
        run(cheat)
