"""Policies by name."""

import pytest

from proserve_core.batching.registry import POLICIES, PolicyError, make_policy
from proserve_core.batching.slide_batching import SlideBatching, StarvationRule


def test_every_name_makes_a_fresh_policy() -> None:
    for name in POLICIES:
        assert make_policy(name) is not make_policy(name)


def test_options_reach_the_policy() -> None:
    policy = make_policy("slide-batching", {"starvation": "wait", "starvation_wait_s": 3})
    assert isinstance(policy, SlideBatching)
    assert policy.options.starvation is StarvationRule.WAIT
    assert policy.options.starvation_wait_s == 3.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fifo", {}, r"'fifo' does not exist: use one of density, edf, fair-batching, fcfs"),
        ("fcfs", {"skip": True}, r"'fcfs' takes no options: remove skip"),
        ("priority", {"b": 1, "a": 2}, r"'priority' takes no options: remove a, b"),
        ("slide-batching", {"alpha": 1.0}, r"alpha.*its options are urgency, budget_floor"),
        ("slide-batching", {"urgency": "high"}, r"slide-batching.*urgency"),
        ("slide-batching", {"urgency": -1.0}, r"urgency must be at least 0, got -1.0"),
        ("slide-batching", {"deadline": "moving"}, r"moving.*deadline"),
    ],
)
def test_what_is_wrong_is_named_with_what_there_is(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        make_policy(name, options)
