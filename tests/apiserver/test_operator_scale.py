"""Many pools on a real API server: what the operator asks of it until all is as it should be, and from then on.

Counts, which do not depend on the machine. `PROSERVE_SCALE_POOLS=500 PROSERVE_SCALE_ENGINES=4` is the size that
docs/operator.md has figures of; `-n0 -s` prints CPU and time as well. Deployments and pods are those of Kubernetes' own
controllers; only the kubelet's part, saying that a pod is ready, is played.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api_server import ApiServer
from cluster_objects import install_definitions
from operator_process import OperatorProcess, running
from resource_builders import engine_pool

POOLS = int(os.environ.get("PROSERVE_SCALE_POOLS", "20"))
ENGINES = int(os.environ.get("PROSERVE_SCALE_ENGINES", "2"))
CALM_S = float(os.environ.get("PROSERVE_SCALE_CALM_S", "8"))
LIMIT_S = 300 + 5 * POOLS
NAMESPACE = "scale"
MADE = ("deployments", "services", "poddisruptionbudgets")
"""What each pool gets."""

pytestmark = pytest.mark.timeout(4 * LIMIT_S)


class ManyPools:
    """Pools, their pods, and what the API server was asked."""

    def __init__(self, server: ApiServer) -> None:
        limits = httpx.Limits(max_connections=16)
        self._api = httpx.AsyncClient(base_url=server.url, verify=server.tls, limits=limits, timeout=60)

    async def make(self) -> None:
        """All pools at once, as a tool that keeps clusters in step with a repository does."""
        path = f"/apis/proserve.dev/v1alpha1/namespaces/{NAMESPACE}/enginepools"
        pools = [
            engine_pool(f"p{number}", replicas=ENGINES, model={"name": f"m{number}", "uri": "generated://tiny"})
            for number in range(POOLS)
        ]
        await self._all(self._sent("POST", path, pool) for pool in pools)

    async def make_pods_ready(self) -> None:
        """The kubelet's part."""
        pods = await self._items("/api/v1", "pods")
        state = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        await self._all(
            self._sent("PATCH", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/status", state)
            for pod in pods
        )

    async def pods(self) -> int:
        return len(await self._items("/api/v1", "pods"))

    async def in_state(self, reason: str) -> int:
        """Pools whose condition `Ready` has this reason."""
        pools = await self._items("/apis/proserve.dev/v1alpha1", "enginepools")
        return sum(
            any(each["type"] == "Ready" and each["reason"] == reason for each in conditions)
            for conditions in (pool.get("status", {}).get("conditions", []) for pool in pools)
        )

    async def made(self) -> list[int]:
        """Objects of each kind in `MADE`."""
        apis = ("/apis/apps/v1", "/api/v1", "/apis/policy/v1")
        return [len(await self._items(api, kind)) for api, kind in zip(apis, MADE, strict=True)]

    async def requests(self) -> dict[str, float]:
        """Requests so far that only the operator makes, by verb: it alone applies, and reads objects one by one."""
        reply = await self._api.get("/metrics")
        counts = dict.fromkeys(("APPLY", "GET", "POST"), 0.0)
        for family in text_string_to_metric_families(reply.text):
            if family.name != "apiserver_request":
                continue
            for sample in family.samples:
                verb, kind = sample.labels["verb"], sample.labels["resource"]
                if verb in counts and (kind in MADE or (kind, verb) == ("enginepools", "APPLY")):
                    counts[verb] += sample.value
        return counts

    async def close(self) -> None:
        await self._api.aclose()

    async def _items(self, api: str, kind: str) -> list[Any]:
        reply = await self._api.get(f"{api}/namespaces/{NAMESPACE}/{kind}")
        reply.raise_for_status()
        items: list[Any] = reply.json()["items"]
        return items

    async def _sent(self, method: str, path: str, body: object) -> None:
        content_type = "application/json" if method == "POST" else "application/merge-patch+json"
        reply = await self._api.request(method, path, content=json.dumps(body), headers={"content-type": content_type})
        assert reply.is_success, reply.text

    async def _all(self, calls: Iterable[Awaitable[None]]) -> None:
        gate = asyncio.Semaphore(16)

        async def one(call: Awaitable[None]) -> None:
            async with gate:
                await call

        await asyncio.gather(*(one(call) for call in calls))


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not await holds():
        assert time.monotonic() < end_s, f"not within {LIMIT_S:g} s: {what}"
        await asyncio.sleep(0.5)


class Watched:
    """Prints and gives what one phase took."""

    def __init__(self, pools: ManyPools, operator: OperatorProcess) -> None:
        self._pools = pools
        self._operator = operator

    async def __aenter__(self) -> "Watched":
        self._before = await self._pools.requests()
        self._cpu_s, self._began_s = self._operator.cpu_s, time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        now = await self._pools.requests()
        self.requests = {verb: round(count - self._before[verb]) for verb, count in now.items()}
        self.took_s, self.cpu_s = time.monotonic() - self._began_s, self._operator.cpu_s - self._cpu_s

    def show(self, phase: str) -> None:
        memory = self._operator.memory_bytes / 2**20
        print(
            f"{POOLS} pools of {ENGINES}, {phase}: {self.took_s:.1f} s, {self.cpu_s:.2f} s of CPU, "
            f"{memory:.0f} MiB, requests {self.requests}"
        )


@pytest.fixture(scope="module")
def busy_server(kubernetes_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    server = ApiServer(kubernetes_programs, tmp_path_factory.mktemp("api"), controllers=("deployment", "replicaset"))
    install_definitions(server)
    server.kubectl("create", "namespace", NAMESPACE)
    yield server
    server.end()


async def test_work_is_in_proportion_and_ends(busy_server: ApiServer, tmp_path: Path) -> None:
    pools = ManyPools(busy_server)
    first = OperatorProcess(busy_server, tmp_path, "first", NAMESPACE)
    with running(first):
        await until("the operator leads", lambda: leads(first))
        async with Watched(pools, first) as making:
            await pools.make()
            await until("objects of all pools", lambda: is_made(pools))
            await until("statuses", lambda: are(pools, "EnginesStarting"))
        making.show("made")
        # One for each object, for each status twice (accepted, then starting), and some for pools that moved meanwhile.
        assert making.requests["APPLY"] <= POOLS * (len(MADE) + 4)
        assert making.requests["GET"] <= POOLS * (len(MADE) + 1)
        await until("pods", lambda: has_pods(pools))
        async with Watched(pools, first) as readying:
            await pools.make_pods_ready()
            await until("ready pools", lambda: are(pools, "EnginesReady"))
        readying.show("become ready")
        assert readying.requests["APPLY"] <= POOLS * (ENGINES + 2)
        await until("an operator that asks nothing", lambda: is_at_rest(pools))
        async with Watched(pools, first) as calm:
            await asyncio.sleep(CALM_S)
        calm.show("left alone")
        assert calm.requests == {"APPLY": 0, "GET": 0, "POST": 0}
        first.process.terminate()
        await asyncio.to_thread(first.process.wait, 300)
    second = OperatorProcess(busy_server, tmp_path, "second", NAMESPACE)
    with running(second):
        async with Watched(pools, second) as again:
            await until("the second leads", lambda: leads(second))
            await until("all pools looked at", lambda: looked_at(second))
            await asyncio.sleep(2)
        again.show("operator started anew")
        assert again.requests["APPLY"] == again.requests["POST"] == 0
        assert again.requests["GET"] <= POOLS * (len(MADE) + 1)
    await pools.close()


async def leads(operator: OperatorProcess) -> bool:
    return operator.answers and operator.metric("proserve_operator_leader") == 1


async def looked_at(operator: OperatorProcess) -> bool:
    samples = operator.samples()
    looks = samples.get('proserve_operator_reconciles_total{kind="EnginePool",result="ok"}', 0)
    return looks >= POOLS and samples["proserve_operator_queue_length"] == 0


async def is_made(pools: ManyPools) -> bool:
    return await pools.made() == [POOLS] * len(MADE)


async def is_at_rest(pools: ManyPools) -> bool:
    before = await pools.requests()
    await asyncio.sleep(2)
    return await pools.requests() == before


async def are(pools: ManyPools, reason: str) -> bool:
    return await pools.in_state(reason) == POOLS


async def has_pods(pools: ManyPools) -> bool:
    return await pools.pods() == POOLS * ENGINES
