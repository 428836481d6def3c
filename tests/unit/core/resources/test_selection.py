"""A request may lower its class and loosen its deadlines, never the other way."""

import pytest

from proserve_core.objectives import ServiceObjectives
from proserve_core.resources import Resources, UnknownClassError, allowed_class, allowed_objectives
from resource_builders import parse, priority_class, tenant


def resources(**spec: str) -> Resources:
    classes = [
        priority_class(name, weight=weight) for name, weight in (("top", 9), ("high", 4), ("peer", 4), ("low", 1))
    ]
    return parse(*classes, tenant(**spec))


@pytest.mark.parametrize(
    ("requested", "chosen"), [(None, "low"), ("low", "low"), ("high", "high"), ("peer", "peer"), ("top", "high")]
)
def test_any_class_up_to_the_maximum_may_be_requested(requested: str | None, chosen: str) -> None:
    declared = resources(priorityClassName="low", maxPriorityClassName="high")
    assert allowed_class(declared, declared.tenants[0], requested).name == chosen


def test_without_a_maximum_the_own_class_is_the_maximum() -> None:
    declared = resources(priorityClassName="high")
    assert allowed_class(declared, declared.tenants[0], "low").name == "low"
    assert allowed_class(declared, declared.tenants[0], "top").name == "high"


def test_unknown_class_is_refused_with_those_that_may_be_requested() -> None:
    declared = resources(priorityClassName="low", maxPriorityClassName="high")
    with pytest.raises(UnknownClassError, match="no class 'hgih'; this tenant may ask for high, peer, low"):
        allowed_class(declared, declared.tenants[0], "hgih")


def test_deadlines_may_be_later_than_the_class_says_but_not_earlier() -> None:
    item = resources().priority_classes[0]
    assert allowed_objectives(item) == item.objectives
    assert allowed_objectives(item, ttft_s=0.1, tpot_s=0.2) == ServiceObjectives(ttft_s=1.0, tpot_s=0.2)
    assert allowed_objectives(item, ttft_s=5.0, tpot_s=0.001) == ServiceObjectives(ttft_s=5.0, tpot_s=0.05)
