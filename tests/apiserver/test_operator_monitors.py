"""The operator where Prometheus' own comes after it started, and goes again."""

import asyncio

import pytest

from acting_operator import acting
from api_server import ApiServer
from cluster_objects import LIMIT_S, Namespace, condition, install_definitions
from others_kinds import SERVICE_MONITOR, definition
from proserve_operator.kube_client import connect
from proserve_operator.operator_run import KindsChangedError, OperatorRun
from proserve_operator.settings import OperatorSettings
from resource_builders import engine_pool

MONITOR = "servicemonitors.monitoring.coreos.com"
NO_AUDIT_S = 3600.0
WATCHED = "proserve_operator_watch_events_total"


async def test_monitors_come_with_their_kind_are_kept_and_hinder_nobody_when_it_goes(
    own_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_definitions(own_api_server)
    namespace = Namespace(own_api_server)
    monkeypatch.setenv("KUBECONFIG", str(own_api_server.kubeconfig))
    await namespace.apply(engine_pool("tiny"))

    async def end_of_acting() -> BaseException | None:
        kube = await connect()
        run = asyncio.create_task(OperatorRun(kube, OperatorSettings(namespaces=(namespace.name,), resync_s=0.5)).act())
        await asyncio.wait({run})
        await kube.close()
        return run.exception()

    async with asyncio.timeout(3 * LIMIT_S):
        first = asyncio.create_task(end_of_acting())
        await namespace.until("epool", "tiny", lambda body: condition(body, "Ready"))
        await asyncio.to_thread(own_api_server.kubectl, "apply", "-f", "-", stdin=definition(SERVICE_MONITOR))
        assert isinstance(await first, KindsChangedError)
        async with acting(own_api_server, namespace.name, monkeypatch, resync_s=NO_AUDIT_S) as run:
            await namespace.until(MONITOR, "engine-tiny", bool)
            # It is watched, too, as soon as the API server is ready for that.
            while not run.metrics.registry.get_sample_value(WATCHED, {"kind": "ServiceMonitor"}):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            await namespace.kubectl("delete", MONITOR, "engine-tiny")
            await namespace.until(MONITOR, "engine-tiny", bool)
        second = asyncio.create_task(end_of_acting())
        await asyncio.to_thread(own_api_server.kubectl, "delete", "crd", MONITOR)
        # Its watch may fail a moment before the API server's list of kinds says why.
        assert await second is not None
    async with acting(own_api_server, namespace.name, monkeypatch):
        await namespace.apply(engine_pool("later", model={"name": "later", "uri": "generated://tiny"}))
        await namespace.until("epool", "later", lambda body: condition(body, "Ready") == ("False", "EnginesStarting"))
