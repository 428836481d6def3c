"""What a change of the files may change while `proserve up` runs."""

import pytest

from proserve_cli.up import _same_engines
from resource_builders import endpoint_pool, engine_pool, parse, priority_class, tenant

BEFORE = parse(priority_class("high"), tenant("alice"), engine_pool("tiny", replicas=2))


def test_classes_endpoints_and_routing_may_change() -> None:
    after = parse(
        priority_class("high", weight=7),
        tenant("bob"),
        engine_pool("tiny", replicas=2, routing={"policy": "min-load"}),
        endpoint_pool("outside"),
    )
    assert _same_engines(after, BEFORE) is after


@pytest.mark.parametrize(
    "pools",
    [
        [engine_pool("tiny", replicas=3)],
        [engine_pool("tiny", replicas=2), engine_pool("more", model={"name": "more", "uri": "generated://tiny"})],
        [engine_pool("tiny", replicas=2, engine={"scheduler": {"policy": "fcfs"}})],
        [endpoint_pool("outside")],
    ],
)
def test_engines_that_run_here_may_not(pools: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="end `proserve up` and start it again"):
        _same_engines(parse(priority_class("high"), tenant("alice"), *pools), BEFORE)
