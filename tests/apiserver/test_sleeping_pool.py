"""A pool that sleeps, with operator and gateway on a real API server: a request wakes it, and it falls asleep again.

No node, so no pod ever runs: the test plays the part of Deployment and EndpointSlice controllers, with an engine of its
own behind the address.
"""

import asyncio
import json
from typing import Any

import pytest

from acting_operator import acting
from api_server import ApiServer
from cluster_gateway import gateway_of, until
from cluster_objects import Namespace, condition, install_definitions
from fake_openai_engine import FakeEngine, fake_engine
from proserve_gateway.configuration import kube_targets
from resource_builders import Data, engine_pool, keyed_tenant, priority_class, secret


def engines_of(body: Any) -> int | None:
    return None if body is None else body["spec"]["replicas"]


async def pods_are(namespace: Namespace, count: int) -> None:
    status = {"observedGeneration": 99, "replicas": count, "updatedReplicas": count, "readyReplicas": count}
    patch = json.dumps({"status": status})
    await namespace.kubectl("patch", "deployment", "engine-tiny", "--subresource=status", "--type=merge", "-p", patch)


def endpoints(engine: FakeEngine, *addresses: str) -> Data:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "tiny-slice", "labels": {"proserve.dev/pool": "tiny"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": int(engine.url.rsplit(":", 1)[1])}],
        "endpoints": [{"addresses": [each], "conditions": {"ready": True, "serving": True}} for each in addresses],
    }


async def test_request_wakes_a_pool_that_sleeps_and_is_answered(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_definitions(api_server)
    namespace = Namespace(api_server)
    # The API server takes no address of loopback.
    monkeypatch.setattr(kube_targets, "_url", lambda _scheme, _address, port: f"http://127.0.0.1:{port}")
    name = f"class-{namespace.name}"
    async with (
        fake_engine() as engine,
        gateway_of(api_server, namespace.name, monkeypatch) as front,
        acting(api_server, namespace.name, monkeypatch, gateway_admin=front.admin),
    ):
        await namespace.apply(
            priority_class(name),
            keyed_tenant("alice", priorityClassName=name),
            secret(alice="sk-alice"),
            engine_pool("tiny", scaling={"min": 0, "max": 2, "idleDelay": "10s"}),
        )
        await namespace.until("deployment", "engine-tiny", lambda body: body is not None)
        await pods_are(namespace, 1)
        await namespace.until("deployment", "engine-tiny", lambda body: engines_of(body) == 0)
        await pods_are(namespace, 0)
        await namespace.until(
            "epool", "tiny", lambda body: condition(body, "ScalingActive") == ("True", "ScaledToZero")
        )
        await until(front.ready, bool)
        await until(lambda: front.models("sk-alice"), lambda said: said == ["tiny"])
        asked = asyncio.create_task(front.completion("tiny", "sk-alice"))
        await namespace.until("deployment", "engine-tiny", lambda body: engines_of(body) == 1)
        assert not asked.done()
        await pods_are(namespace, 1)
        await namespace.apply(endpoints(engine, "192.0.2.1"))
        assert (await asked).status_code == 200
        await namespace.until("deployment", "engine-tiny", lambda body: engines_of(body) == 0)
