"""What clues that the shipped traces lack are worth: traffic made for them, and the same traffic without them."""

import pytest

from engine_builders import H100_LLAMA_8B, engine_limits, service_terms
from proserve_core.batching.registry import make_policy
from proserve_core.clues import NO_CLUES, LengthClues
from proserve_core.replica import Replica
from proserve_lab.simulation.run import simulate
from proserve_lab.simulation.workload import SimulatedRequest

REQUESTS, RATE = 600, 32.0


def tdg_ratio(*, long: LengthClues, short: LengthClues) -> float:
    """Overload by equal prompts, every third with a long answer."""
    requests = [
        SimulatedRequest(
            id=f"r{number:03d}",
            terms=service_terms(),
            arrival_s=number / RATE,
            prompt_tokens=1500,
            output_tokens=300 + 41 * number % 100 if number % 3 == 0 else 5 + 7 * number % 10,
            clues=long if number % 3 == 0 else short,
        )
        for number in range(REQUESTS)
    ]
    replica = Replica(
        policy=make_policy("recoverable-gain", {}),
        policy_name="recoverable-gain",
        limits=engine_limits(blocks=30_000, max_sequences=256),
        latency=H100_LLAMA_8B,
    )
    run = simulate(requests, replicas=[replica], to_the_end=False)
    return run.ledger.total().tdg_ratio


@pytest.fixture(scope="module")
def without_clues() -> float:
    return tdg_ratio(long=NO_CLUES, short=NO_CLUES)


@pytest.mark.parametrize(
    ("long", "short"),
    [
        (LengthClues(max_tokens=2000), LengthClues(max_tokens=1000)),
        (LengthClues(prefix="write a story"), LengthClues(prefix="answer yes or no")),
        (LengthClues(client="c", prefix="write a story"), LengthClues(client="c", prefix="answer yes or no")),
        (LengthClues(client="talks"), LengthClues(client="brief")),
    ],
    ids=["max_tokens", "prefix", "prefix of a client", "client"],
)
def test_a_clue_that_tells_long_answers_from_short_ones_earns(
    long: LengthClues, short: LengthClues, without_clues: float
) -> None:
    # Limits are far above what is emitted: it is the table that tells the lengths, not the limit.
    assert tdg_ratio(long=long, short=short) > without_clues + 0.05


def test_a_clue_that_says_nothing_costs_nothing(without_clues: float) -> None:
    same = LengthClues(client="c", prefix="you are helpful", max_tokens=1000)
    assert tdg_ratio(long=same, short=same) == pytest.approx(without_clues, abs=0.02)
