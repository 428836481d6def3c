"""Offload thresholds worked out by hand, and the directions in which they move."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.blocks import (
    CopyCosts,
    DemandRate,
    Offload,
    OffloadCandidate,
    OffloadCosts,
    copy_worth,
    offload_threshold,
    plan_offloads,
    preemption_probability,
)
from proserve_core.blocks.offload import exposure_loss

LINK = CopyCosts(start_s=0.001, block_s=0.001)
CERTAIN = 1 - math.exp(-1.0)
"""With a horizon of 10 s this is 0.1 preemptions per second."""


def candidate(
    name: str = "a",
    *,
    uncopied: int = 8,
    growth: float = 3.0,
    probability: float = CERTAIN,
    horizon_s: float = 10.0,
    saving_s: float = 3e-4,
) -> OffloadCandidate:
    return OffloadCandidate(
        request_id=name,
        uncopied=uncopied,
        growth=growth,
        probability=probability,
        horizon_s=horizon_s,
        saving_s=saving_s,
    )


def test_threshold_by_hand() -> None:
    # h = 0.1/s, v = 0.3 ms, g = 3/s, 0.1 ms per call: sqrt(2 * 1e-4 * 3 / (0.1 * 3e-4)) = sqrt(20) = 4.47.
    assert offload_threshold(candidate(), OffloadCosts(call_s=1e-4)) == 5


def test_threshold_is_the_least_cost_of_copying_and_losing() -> None:
    """Against the cost per second at every whole threshold, from which the formula was derived."""
    costs = OffloadCosts(call_s=1e-4, block_s=2e-5, host_price_s=1e-5)
    request = candidate(growth=7.0)
    saving_s = 3e-4 - 3e-5 / CERTAIN

    def cost(blocks: int) -> float:
        return costs.call_s * request.growth / blocks + 0.1 * saving_s * blocks / 2

    best = min(range(1, 100), key=cost)
    threshold = offload_threshold(request, costs)
    assert threshold is not None
    assert abs(threshold - best) <= 1
    assert cost(threshold) <= 1.1 * cost(best)


def test_copying_that_costs_more_than_it_is_likely_to_save_does_not_start() -> None:
    # P * saving = 0.632 * 0.3 ms = 0.19 ms per block.
    assert offload_threshold(candidate(), OffloadCosts(call_s=1e-4, block_s=1.8e-4)) is not None
    assert offload_threshold(candidate(), OffloadCosts(call_s=1e-4, block_s=2.0e-4)) is None
    assert offload_threshold(candidate(), OffloadCosts(call_s=1e-4, host_price_s=2.0e-4)) is None


def test_who_cannot_be_preempted_is_not_copied() -> None:
    assert offload_threshold(candidate(probability=0.0), OffloadCosts(call_s=0.0)) is None


def test_who_will_be_preempted_for_sure_is_copied_at_once() -> None:
    assert offload_threshold(candidate(probability=1.0), OffloadCosts(call_s=1.0)) == 1


def test_nothing_to_wait_for_is_copied_at_once() -> None:
    assert offload_threshold(candidate(growth=0.0), OffloadCosts(call_s=1.0)) == 1


probabilities = st.floats(0.0, 1.0)
times = st.floats(0.0, 1e-2)


@given(
    low=probabilities, high=probabilities, growth=st.floats(0, 1e3), horizon_s=st.floats(0.01, 1e3),
    saving_s=times, call_s=times, block_s=times, host_price_s=times,
)  # fmt: skip
def test_likelier_preemption_never_raises_the_threshold(
    low: float,
    high: float,
    growth: float,
    horizon_s: float,
    saving_s: float,
    call_s: float,
    block_s: float,
    host_price_s: float,
) -> None:
    costs = OffloadCosts(call_s=call_s, block_s=block_s, host_price_s=host_price_s)
    request = candidate(growth=growth, horizon_s=horizon_s, saving_s=saving_s)
    rarely, often = (
        offload_threshold(msgspec.structs.replace(request, probability=probability), costs)
        for probability in sorted((low, high))
    )
    assert rarely is None or (often is not None and often <= rarely)


@given(
    probability=probabilities, growth=st.floats(0, 1e3), horizon_s=st.floats(0.01, 1e3), saving_s=times,
    costs=st.builds(OffloadCosts, call_s=times, block_s=times, host_price_s=times), more=times,
    field=st.sampled_from(["call_s", "block_s", "host_price_s"]),
)  # fmt: skip
def test_dearer_copies_never_lower_the_threshold(
    probability: float,
    growth: float,
    horizon_s: float,
    saving_s: float,
    costs: OffloadCosts,
    more: float,
    field: str,
) -> None:
    request = candidate(probability=probability, growth=growth, horizon_s=horizon_s, saving_s=saving_s)
    cheap = offload_threshold(request, costs)
    dearer = msgspec.structs.replace(costs, **{field: getattr(costs, field) + more})
    dear = offload_threshold(request, dearer)
    assert dear is None or (cheap is not None and cheap <= dear)


def test_exposure_loss_by_hand() -> None:
    # 0.1 preemptions per second, each costs 0.3 ms per block; with 0.063 ms to copy a block 0.1 ms less.
    assert exposure_loss(candidate(), OffloadCosts(call_s=1.0)) == pytest.approx(3e-5)
    costs = OffloadCosts(call_s=1.0, block_s=1e-4 * CERTAIN)
    assert exposure_loss(candidate(), costs) == pytest.approx(2e-5)


def test_who_loses_most_goes_first_and_the_link_ends_the_step() -> None:
    risky, safe = candidate("risky", probability=0.5), candidate("safe", probability=0.1)
    costs = OffloadCosts(call_s=1e-6)
    assert plan_offloads([safe, risky], costs=costs, link=LINK, hidden_s=1.0) == (
        Offload("risky", 8),
        Offload("safe", 8),
    )
    assert plan_offloads([safe, risky], costs=costs, link=LINK, hidden_s=0.0125) == (
        Offload("risky", 8),
        Offload("safe", 2),
    )
    assert plan_offloads([safe, risky], costs=costs, link=LINK, hidden_s=0.001) == ()


@given(uncopied=st.lists(st.integers(0, 30), max_size=10), hidden_s=st.floats(0, 0.1))
def test_copies_ahead_hide(uncopied: list[int], hidden_s: float) -> None:
    candidates = [candidate(str(number), uncopied=blocks) for number, blocks in enumerate(uncopied)]
    offloads = plan_offloads(candidates, costs=OffloadCosts(call_s=1e-6), link=LINK, hidden_s=hidden_s)
    assert sum(LINK.copy_s(offload.blocks) for offload in offloads) <= hidden_s + 1e-12
    assert all(1 <= offload.blocks <= uncopied[int(offload.request_id)] for offload in offloads)


def test_below_the_threshold_nothing_is_copied() -> None:
    costs = OffloadCosts(call_s=1e-4)
    assert plan_offloads([candidate(uncopied=4)], costs=costs, link=LINK, hidden_s=1.0) == ()
    assert plan_offloads([candidate(uncopied=5)], costs=costs, link=LINK, hidden_s=1.0) == (Offload("a", 5),)


def test_the_lower_the_rank_the_sooner_a_copy_starts() -> None:
    """Ten residents of 100 blocks, 50 free: the tail is copied block by block, the head not at all."""
    demand = DemandRate(drift=10.0, variance=400.0)
    risks = [
        preemption_probability(cushion=50 + 100 * behind, horizon_s=10.0, demand=demand) for behind in range(9, -1, -1)
    ]
    costs = OffloadCosts(call_s=5e-5, block_s=2e-6)
    thresholds = [offload_threshold(candidate(probability=risk), costs) for risk in risks]
    assert thresholds[:6] == [None] * 6
    copied = [threshold for threshold in thresholds[6:] if threshold is not None]
    assert copied == sorted(copied, reverse=True)
    assert copied[0] > 10
    assert copied[-1] <= 3


def test_host_blocks_of_a_heavy_request_in_danger_are_worth_most() -> None:
    assert copy_worth(8.0, 1.0) > copy_worth(8.0, 0.1) > copy_worth(1.0, 0.1)
