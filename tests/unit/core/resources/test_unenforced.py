"""Fields that are accepted without effect are named, and only those."""

from proserve_core.resources import unenforced
from resource_builders import engine_pool, parse, priority_class, tenant


def test_fields_with_effect_give_no_line() -> None:
    classes = priority_class(gain={"firstToken": 2})
    enforced = (classes, tenant(limits={"maxInFlight": 1}), engine_pool())
    assert unenforced(parse(*enforced)) == []


def test_each_field_without_effect_gives_one_line_with_its_documents() -> None:
    resources = parse(
        priority_class("high", headroom={"percent": 10}),
        priority_class("low", headroom={"percent": 10}, overload={"action": "Shed"}),
        engine_pool(engine={"image": "x"}, resources={"limits": {"nvidia.com/gpu": 1}}),
    )
    assert unenforced(resources) == [
        "spec.engine.image is for engines in a cluster: it has no effect on this machine "
        "(test#3 (EnginePool default/tiny))",
        "spec.resources.limits is for engines in a cluster: it has no effect on this machine "
        "(test#3 (EnginePool default/tiny))",
        "spec.overload of low has no effect in pools where no request waits (tiny): "
        "set spec.routing.policy to late-gain there",
        "spec.headroom of high, low has no effect in pools where no request waits (tiny): "
        "set spec.routing.policy to late-gain there",
    ]


def test_overload_and_headroom_have_an_effect_where_requests_wait() -> None:
    declared = priority_class("low", overload={"action": "Shed"}, headroom={"percent": 10})
    assert unenforced(parse(declared, engine_pool(routing={"policy": "late-gain"}))) == []
