"""How soon a new or deleted key of a Secret is in force at a gateway, from the API server's answer to the change on.

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


async def test_new_and_deleted_keys_are_in_force_promptly(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    install_definitions(api_server)
    namespace = Namespace(api_server)
    url = f"{api_server.url}/api/v1/namespaces/{namespace.name}/secrets/keys"
    new_s, deleted_s = list[float](), list[float]()
    async with (
        gateway_of(api_server, namespace.name, monkeypatch) as front,
        httpx.AsyncClient(verify=api_server.tls, headers={"content-type": "application/merge-patch+json"}) as owner,
    ):
        await namespace.apply(
            priority_class(f"class-{namespace.name}"),
            keyed_tenant("alice", priorityClassName=f"class-{namespace.name}"),
            secret(alice="sk-first", other="sk-other"),
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
    for what, taken_s in (("new", new_s), ("deleted", deleted_s)):
        middle_s, most_s = statistics.median(taken_s), max(taken_s)
        print(f"{what} key in force: median {middle_s:.2f} s, most {most_s:.2f} s of {ROUNDS}; target {TARGET_S:g} s")
        record_property(f"{what}_key_most_s", round(most_s, 3))
        # Most and median are the machine's when it is busy. A design that is too slow is so each time.
        assert min(taken_s) < TARGET_S
