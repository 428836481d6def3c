"""A real API server that refuses, conflicts and dawdles: the operator gets everything done in the end."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from acting_operator import acting, until_healthy
from api_server import ApiServer
from cluster_objects import Namespace, condition, install_definitions
from refusing_proxy import REFUSALS, RefusingProxy, refusing_proxy
from resource_builders import engine_pool

POOLS = 6


def pool(number: int, replicas: int) -> dict[str, object]:
    return engine_pool(f"p{number}", replicas=replicas, model={"name": f"m{number}", "uri": "generated://tiny"})


def sized(replicas: int) -> Callable[[Any], bool]:
    return lambda body: bool(body) and bool(body["spec"]["replicas"] == replicas)


def judged(body: Any) -> bool:
    return condition(body, "Ready") == ("False", "EnginesStarting") and bool(
        body["status"]["observedGeneration"] == body["metadata"]["generation"]
    )


def exists(body: Any) -> bool:
    return body is not None


async def check_that_edits_arrive(namespace: Namespace) -> None:
    for replicas in (1, 2):
        await namespace.apply(*(pool(number, replicas) for number in range(POOLS)))
        for number in range(POOLS):
            await namespace.until("deployment", f"engine-p{number}", sized(replicas))
            await namespace.until("epool", f"p{number}", judged)
    for kind in ("service", "pdb"):
        for number in range(POOLS):
            await namespace.until(kind, f"engine-p{number}", exists)
    await namespace.kubectl("delete", "service", "engine-p0")
    await namespace.until("service", "engine-p0", exists)


@pytest.fixture
async def behind_proxy(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[tuple[Namespace, RefusingProxy]]:
    """A namespace, and what stands between the API server and the operator that looks after it."""
    install_definitions(api_server)
    namespace = Namespace(api_server)
    async with (
        refusing_proxy(api_server, tmp_path) as proxy,
        acting(api_server, namespace.name, monkeypatch, kubeconfig=proxy.kubeconfig) as run,
    ):
        yield namespace, proxy
        await until_healthy(run)


async def test_what_is_refused_is_asked_for_again(behind_proxy: tuple[Namespace, RefusingProxy]) -> None:
    namespace, proxy = behind_proxy
    proxy.share = 0.4
    await check_that_edits_arrive(namespace)
    assert {status for _, status in proxy.refused} == set(REFUSALS)
    assert {method for method, _ in proxy.refused} >= {"GET", "PATCH"}


async def test_api_server_that_takes_its_time_delays_and_loses_nothing(
    behind_proxy: tuple[Namespace, RefusingProxy],
) -> None:
    namespace, proxy = behind_proxy
    proxy.delay_s = 1.0
    await check_that_edits_arrive(namespace)
