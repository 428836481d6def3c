"""The speed of a machine over time, and a simulation that runs at it."""

import msgspec
import pytest

from engine_builders import H100_LLAMA_8B, service_terms
from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import make_policy
from proserve_core.latency import StepWork
from proserve_core.latency.step_log import LoggedStep
from proserve_lab.machine_speed import MachineSpeed, TimedReplica
from proserve_lab.simulation.run import simulate
from proserve_lab.simulation.workload import SimulatedRequest

DECODE = StepWork(new_tokens=8, decode_context=800, sequences=8)
PROMPT = StepWork(new_tokens=2000, attention=4e6, sequences=1)


def steps(*slower: float, begin_s: float = 100.0) -> list[LoggedStep]:
    """Short and long steps for a second at each of these factors."""
    found: list[LoggedStep] = []
    ended_s = begin_s
    for second, factor in enumerate(slower, start=1):
        while ended_s < begin_s + second:
            work = PROMPT if len(found) % 3 == 0 else DECODE
            wall_s = factor * H100_LLAMA_8B.step_s(work)
            ended_s += wall_s
            found.append(LoggedStep(work=work, predicted_s=0.0, wall_s=wall_s, cpu_s=wall_s, ended_s=ended_s))
    return found


def test_the_factor_is_that_of_the_steps_around() -> None:
    speed = MachineSpeed(H100_LLAMA_8B, steps(1.0, 1.0, 1.0, 1.3, 1.3, 1.3))
    assert speed.factor(101.0) == pytest.approx(1.0)
    assert speed.factor(105.0) == pytest.approx(1.3)
    assert 1.1 < speed.factor(103.0) < 1.2


def test_a_machine_is_not_slow_because_its_steps_waited_for_copies() -> None:
    waiting = [
        msgspec.structs.replace(step, wall_s=2 * step.wall_s, copies_s=step.wall_s) for step in steps(1.1, 1.1, 1.1)
    ]
    assert MachineSpeed(H100_LLAMA_8B, waiting).factor(101.5) == pytest.approx(1.1)


def test_without_steps_near_the_model_is_right() -> None:
    assert MachineSpeed(H100_LLAMA_8B, []).factor(5.0) == 1.0
    assert MachineSpeed(H100_LLAMA_8B, steps(2.0)).factor(50.0) == 1.0


def test_steps_of_a_simulation_take_as_long_as_the_machine_then_did() -> None:
    speed = MachineSpeed(H100_LLAMA_8B, steps(1.0, 1.0, 1.0, 1.5, 1.5, 1.5, begin_s=0.0))
    replica = TimedReplica(
        policy=make_policy("fcfs"),
        policy_name="fcfs",
        limits=EngineLimits(block_size=16, blocks=1000, max_sequences=8, max_step_tokens=2048),
        latency=H100_LLAMA_8B,
    )
    requests = [
        SimulatedRequest(id=name, terms=service_terms(), arrival_s=at_s, prompt_tokens=1000, output_tokens=1)
        for name, at_s in (("early", 1.0), ("late", 5.0))
    ]
    run = simulate(
        requests,
        replicas=[replica],
        noise=lambda: speed.factor(replica.began_s),
    )
    early_s, late_s = (outcome.emitted_s[0] - outcome.request.arrival_s for outcome in run.outcomes)
    assert late_s == pytest.approx(1.5 * early_s)
