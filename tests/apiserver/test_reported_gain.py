"""From requests to the columns of `kubectl get`: gateway, its report, operator, and statuses on a real API server.

One of its own: an operator of the whole cluster looks at what other tests left, too.
"""

import pytest

from acting_operator import acting
from api_server import ApiServer
from cluster_gateway import gateway_of, until
from cluster_objects import Namespace, condition, install_definitions
from fake_openai_engine import fake_engine
from resource_builders import endpoint_pool, keyed_tenant, priority_class, secret

REQUESTS = 3


async def test_gain_of_requests_is_shown_on_class_tenant_and_pool(
    own_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_definitions(own_api_server)
    namespace = Namespace(own_api_server)
    name = f"class-{namespace.name}"
    late = {"timeToFirstToken": "1h", "timePerOutputToken": "1h"}
    async with (
        fake_engine() as engine,
        gateway_of(own_api_server, namespace.name, monkeypatch) as front,
        acting(own_api_server, None, monkeypatch, gateway_admin=front.admin),
    ):
        await namespace.apply(
            priority_class(name, objectives=late),
            keyed_tenant("alice", priorityClassName=name),
            secret(alice="sk-alice"),
            endpoint_pool("outside", engine.url),
        )
        await until(lambda: front.models("sk-alice"), lambda said: said == ["outside"])
        resolved = ("True", "KeysFound")
        await namespace.until("ptn", "alice", lambda body: condition(body, "KeysResolved") == resolved)
        # What a gateway did before its first report that is read counts for nobody.
        for _ in range(REQUESTS):
            assert (await front.completion("outside", "sk-alice")).status_code == 200
        for kind, of in (("ppc", name), ("ptn", "alice"), ("epool", "outside")):
            body = await namespace.until(
                kind, of, lambda body: body.get("status", {}).get("gain", {}).get("requests") == REQUESTS
            )
            gain = body["status"]["gain"]
            assert (gain["ratio"], gain["sloAttainment"]) == ("100.0%", "100.0%")
            assert condition(body, "Accepted") == ("True", "Valid")
            header, row = (line.split() for line in (await namespace.kubectl("get", kind, of)).splitlines())
            assert {"GAIN", "SLO"} < set(header)
            assert row.count("100.0%") == 2
        (served,) = body["status"]["classes"]
        assert (served["className"], served["requests"], served["ratio"]) == (name, REQUESTS, "100.0%")
        await namespace.kubectl("delete", "secret", "keys")
        missing = ("False", "KeysMissing")
        await namespace.until("ptn", "alice", lambda body: condition(body, "KeysResolved") == missing)
