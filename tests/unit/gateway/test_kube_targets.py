"""Engines from EndpointSlices."""

from typing import Any

import pytest

from proserve_gateway.configuration.kube_targets import engine_targets
from proserve_gateway.fleet.target import TlsPeer


def endpoint(address: str, pod: str | None = None, **conditions: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    return made | ({"targetRef": {"name": pod}} if pod else {})


def endpoint_slice(*endpoints: dict[str, Any], namespace: str = "default", **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "s", "namespace": namespace, "labels": {"proserve.dev/pool": "tiny"}},
        "ports": [{"name": "http", "port": 8000}, {"name": "capacity", "port": 9400}],
        "endpoints": list(endpoints),
        **changes,
    }


def names(*slices: dict[str, Any]) -> list[str]:
    return [target.name for target in engine_targets(slices)]


def test_each_pod_is_an_engine_with_both_addresses() -> None:
    (target,) = engine_targets([endpoint_slice(endpoint("10.0.0.7", "a"), namespace="team")])
    assert (target.name, target.pool) == ("team/a", "team/tiny")
    assert (target.base_url, target.capacity_url) == ("http://10.0.0.7:8000", "http://10.0.0.7:9400")


def test_pods_with_tls_are_reached_with_it_beside_those_without() -> None:
    """As they are while a rollout gives TLS to a pool."""
    ports = [{"name": "https", "port": 8000}, {"name": "capacity-https", "port": 9400}]
    with_tls = endpoint_slice(endpoint("10.0.0.8", "b"), namespace="team", ports=ports)
    with_tls["metadata"]["labels"]["kubernetes.io/service-name"] = "engine-tiny"
    old, new = engine_targets([endpoint_slice(endpoint("10.0.0.7", "a"), namespace="team"), with_tls])
    assert (old.base_url, old.peer) == ("http://10.0.0.7:8000", None)
    assert (new.base_url, new.capacity_url) == ("https://10.0.0.8:8000", "https://10.0.0.8:9400")
    # Nobody is trusted yet to have signed it.
    assert new.peer == TlsPeer(server_name="engine-tiny.team.svc", authority="")


def test_ipv6_addresses_are_bracketed() -> None:
    (target,) = engine_targets([endpoint_slice(endpoint("fd00::1", "a"))])
    assert target.base_url == "http://[fd00::1]:8000"


@pytest.mark.parametrize(
    ("conditions", "is_engine"),
    [
        ({}, True),
        ({"ready": True, "serving": True}, True),
        ({"ready": False, "serving": False}, False),
        ({"ready": False}, False),
        # Draining: it ends what it has, and its snapshot says that it takes nothing new.
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_engines_are_those_that_serve(conditions: dict[str, bool], is_engine: bool) -> None:
    assert names(endpoint_slice(endpoint("10.0.0.7", "a", **conditions))) == (["a"] if is_engine else [])


def test_pod_in_two_slices_is_one_engine() -> None:
    assert names(endpoint_slice(endpoint("10.0.0.7", "a")), endpoint_slice(endpoint("10.0.0.7", "a"))) == ["a"]


def test_engine_without_a_pod_is_named_by_its_address() -> None:
    assert names(endpoint_slice(endpoint("10.0.0.7"))) == ["10.0.0.7"]


def test_slices_without_endpoints_or_ports_are_no_engines() -> None:
    assert names(endpoint_slice(endpoints=None)) == []
    assert names(endpoint_slice(endpoint("10.0.0.7", "a"), ports=None)) == []
