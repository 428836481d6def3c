"""Watches that fail without a word, on a real API server: what they miss is found, and a deaf operator says so."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from acting_operator import acting, until_healthy
from api_server import ApiServer
from cluster_objects import Namespace, condition, install_definitions
from deaf_proxy import deaf_proxy
from proserve_operator import operator_run
from resource_builders import engine_pool


@pytest.fixture(autouse=True)
def events_are_not_long_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_run, "LAG_S", 1.0)


def has(engines: int) -> Callable[[Any], bool]:
    """Of a Deployment."""
    return lambda body: bool(body["spec"]["replicas"] == engines)


async def test_watch_that_is_silent_is_noticed_and_what_it_misses_is_done(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_definitions(api_server)
    namespace = Namespace(api_server)
    async with (
        deaf_proxy(api_server.port) as proxy,
        acting(api_server, namespace.name, monkeypatch, watch_through=proxy.port) as run,
    ):
        await namespace.apply(engine_pool("tiny", replicas=1))
        await namespace.until("epool", "tiny", lambda body: condition(body, "Ready"))
        await until_healthy(run)
        proxy.silent = True
        for replicas in range(2, 20):
            await namespace.kubectl("scale", "epool/tiny", f"--replicas={replicas}")
            await namespace.until("deployment", "engine-tiny", has(replicas))
            if run.unhealthy:
                break
        assert "the watch of EnginePool shows nothing any more" in run.unhealthy


async def test_edit_is_followed_though_the_history_that_would_tell_of_it_is_lost(
    own_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_definitions(own_api_server)
    namespace = Namespace(own_api_server)
    async with (
        deaf_proxy(own_api_server.port) as proxy,
        acting(own_api_server, namespace.name, monkeypatch, watch_through=proxy.port, resync_s=3600.0) as run,
    ):
        await namespace.apply(engine_pool("tiny", replicas=1))
        before = await namespace.until("epool", "tiny", lambda body: condition(body, "Ready"))
        proxy.cut()
        await namespace.kubectl("scale", "epool/tiny", "--replicas=2")
        await asyncio.to_thread(own_api_server.stop)
        await asyncio.to_thread(own_api_server.start)
        # So the operator's watches are answered, too.
        query = f"watch=true&timeoutSeconds=5&resourceVersion={before['metadata']['resourceVersion']}"
        path = f"/apis/proserve.dev/v1alpha1/namespaces/{namespace.name}/enginepools?{query}"
        assert '"code":410' in await namespace.kubectl("get", "--raw", path)
        proxy.gone = False
        await namespace.until("deployment", "engine-tiny", has(2))
        await until_healthy(run)
