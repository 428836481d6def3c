"""Output lengths that change all at once, and who copes with it."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from engine_builders import H100_LLAMA_8B, engine_limits, service_terms
from proserve_core.batching.registry import make_policy
from proserve_core.clues import LengthClues
from proserve_core.gain import earnable_gain, earned_gain
from proserve_core.replica import Replica
from proserve_lab.report.ablations import ablated, told
from proserve_lab.report.length_shift import FACTOR, sender, shift_lengths
from proserve_lab.report.scenarios import requests_of
from proserve_lab.report.workloads import LONGEST_OUTPUT
from proserve_lab.simulation.run import Outcome, simulate
from proserve_lab.simulation.workload import SimulatedRequest

KNOWN = "lengths known"


def gain_by_quarter(requests: list[SimulatedRequest], policy: str, variant: str = "") -> list[float]:
    """Share of the gain of each quarter of the requests."""
    seen = told(variant, requests) if variant else requests
    with ablated(variant) if variant else nullcontext():
        replica = Replica(
            policy=make_policy(policy, {}),
            policy_name=policy,
            limits=engine_limits(blocks=30_000, max_sequences=256),
            latency=H100_LLAMA_8B,
        )
        run = simulate(seen, replicas=[replica], to_the_end=False)
    shares = []
    for part in batched(run.outcomes, len(requests) // 4):
        earned = sum(earned_gain(item.request.terms, item.request.arrival_s, item.emitted_s) for item in part)
        shares.append(earned / sum(earnable_gain(item.request.terms, item.request.output_tokens) for item in part))
    return shares


def batched(outcomes: Sequence[Outcome], size: int) -> list[Sequence[Outcome]]:
    return [outcomes[start : start + size] for start in range(0, len(outcomes), size)]


def two_clients(count: int, *, rate: float) -> list[SimulatedRequest]:
    """Equal prompts; one client's answers are long, the other's short, and in the second half the other way round."""
    requests = []
    for number in range(count):
        talks = (number % 2 == 0) == (number < count // 2)
        requests.append(
            SimulatedRequest(
                id=f"r{number:04d}",
                terms=service_terms(),
                arrival_s=number / rate,
                prompt_tokens=1500,
                output_tokens=200 + 41 * number % 100 if talks else 40 + 7 * number % 20,
                clues=LengthClues(client="even" if number % 2 == 0 else "odd"),
            )
        )
    return requests


@pytest.mark.parametrize("workload", ["m-large", "r1", "azure-conv"])
def test_in_the_second_half_all_senders_change_and_the_work_stays_the_same(workload: str) -> None:
    before, after = requests_of("h100", workload, 1.2), requests_of("length-shift", workload, 1.2)
    middle = len(before) // 2
    assert after[:middle] == before[:middle]
    changes = defaultdict[str, set[bool]](set)
    for old, new in zip(before[middle:], after[middle:], strict=True):
        longer = min(FACTOR * old.output_tokens, LONGEST_OUTPUT)
        assert new.output_tokens in (longer, -(-old.output_tokens // FACTOR))
        if old.output_tokens > 1:
            changes[sender(old)].add(new.output_tokens == longer)
    assert all(len(ways) == 1 for ways in changes.values())
    assert {True, False} == set.union(*changes.values())
    work = [sum(request.output_tokens for request in part[middle:]) for part in (before, after)]
    assert work[1] == pytest.approx(work[0], rel=0.1)


def test_a_trace_without_requests_to_shift_stays_as_it_is() -> None:
    assert shift_lengths([]) == []


def test_swapped_clients_are_learned_anew_within_a_few_seconds() -> None:
    # 32 requests/s: what is wrong at first costs a third of the gain of the next 9 s, and nothing after them.
    requests = two_clients(1200, rate=32.0)
    ours = gain_by_quarter(requests, "recoverable-gain")
    known = gain_by_quarter(requests, "recoverable-gain", KNOWN)
    assert ours[1] == pytest.approx(known[1], abs=0.03)
    assert ours[2] > known[2] - 0.35
    assert ours[3] == pytest.approx(known[3], abs=0.03)
    for other in ("qoserve", "slide-batching", "density"):
        theirs = gain_by_quarter(requests, other)
        assert ours[2] + ours[3] > theirs[2] + theirs[3] + 0.05, other
