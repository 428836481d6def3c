"""How soon a new class, and a new or deleted key, is in force at a gateway, from the API server's answer on.

With `-rP` the figures are printed next to their target.
"""

import operator
import statistics
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from api_server import ApiServer
from cluster_gateway import gateway_of, until
from cluster_objects import Namespace, install_definitions
from resource_builders import engine_pool, keyed_tenant, priority_class, secret

TARGET_S = 2.0
ROUNDS = 10
LATER = ["bob", "carol", "dave"]
"""Tenants whose classes come after them."""


async def test_new_classes_and_keys_and_deleted_keys_are_in_force_promptly(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    install_definitions(api_server)
    namespace = Namespace(api_server)
    url = f"{api_server.url}/api/v1/namespaces/{namespace.name}/secrets/keys"
    classes = f"{api_server.url}/apis/proserve.dev/v1alpha1/priorityclasses"
    new_s, deleted_s, class_s = list[float](), list[float](), list[float]()
    async with (
        gateway_of(api_server, namespace.name, monkeypatch) as front,
        httpx.AsyncClient(verify=api_server.tls, headers={"content-type": "application/merge-patch+json"}) as owner,
    ):
        await namespace.apply(
            priority_class(f"class-{namespace.name}"),
            keyed_tenant("alice", priorityClassName=f"class-{namespace.name}"),
            *(keyed_tenant(name, priorityClassName=f"{name}-{namespace.name}") for name in LATER),
            secret(alice="sk-first", other="sk-other", **{name: f"sk-{name}" for name in LATER}),
            engine_pool("tiny"),
        )
        await until(lambda: front.models("sk-first"), lambda said: said == ["tiny"])
        for number in range(ROUNDS):
            key = f"sk-{number}"
            for change, said, taken_s in (
                ({"stringData": {"alice": key}}, ["tiny"], new_s),
                ({"data": {"alice": None}}, 401, deleted_s),
            ):
                (await owner.patch(url, json=change)).raise_for_status()
                began_s = time.monotonic()
                await until(partial(front.models, key), partial(operator.eq, said))
                taken_s.append(time.monotonic() - began_s)
        for name in LATER:
            assert await front.models(f"sk-{name}") == 401
            made = priority_class(f"{name}-{namespace.name}")
            (await owner.post(classes, json=made, headers={"content-type": "application/json"})).raise_for_status()
            began_s = time.monotonic()
            await until(partial(front.models, f"sk-{name}"), partial(operator.eq, ["tiny"]))
            class_s.append(time.monotonic() - began_s)
    for what, taken_s in (("new key", new_s), ("deleted key", deleted_s), ("new class", class_s)):
        middle_s, most_s = statistics.median(taken_s), max(taken_s)
        print(f"{what} in force: median {middle_s:.2f} s, most {most_s:.2f} s of {len(taken_s)}; target {TARGET_S:g} s")
        record_property(f"{what.replace(' ', '_')}_most_s", round(most_s, 3))
        # Most and median are the machine's when it is busy. A design that is too slow is so each time.
        assert min(taken_s) < TARGET_S
