"""A gateway that takes its configuration from a real API server, in the test's own process, as its clients see it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from api_server import ApiServer
from cluster_objects import LIMIT_S
from proserve_core.gain_report import GainReport
from proserve_core.resources import Resources
from proserve_gateway.configuration.kube_watch import connect
from proserve_gateway.configuration.kubernetes import KubernetesSource
from proserve_gateway.server import Gateway, GatewayConfig, Listen

ANY = Listen("127.0.0.1", 0)


class Front:
    """A gateway of one namespace, as its clients see it."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient) -> None:
        assert gateway.admin is not None
        self._data = f"http://127.0.0.1:{gateway.http.port}"
        self.admin = f"http://127.0.0.1:{gateway.admin.port}"
        self._client = client

    async def models(self, key: str | None = None) -> list[str] | int:
        """Models that a key may use; the status of a refusal."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        reply = await self._client.get(f"{self._data}/v1/models", headers=headers)
        return [each["id"] for each in reply.json()["data"]] if reply.status_code == 200 else reply.status_code

    async def completion(self, model: str, key: str) -> httpx.Response:
        """A short one."""
        body = {"model": model, "prompt": "hi", "max_tokens": 4}
        headers = {"Authorization": f"Bearer {key}"}
        return await self._client.post(f"{self._data}/v1/completions", json=body, headers=headers)

    async def ready(self) -> bool:
        return (await self._client.get(f"{self.admin}/readyz")).status_code == 200

    async def status(self) -> Any:
        return (await self._client.get(f"{self.admin}/status")).json()

    async def report(self) -> GainReport:
        return msgspec.json.decode((await self._client.get(f"{self.admin}/report")).content, type=GainReport)


async def until(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], object], *, limit_s: float = LIMIT_S) -> Any:
    """What `ask` says as soon as `holds` of it."""
    said: Any = None
    try:
        async with asyncio.timeout(limit_s):
            while True:
                said = await ask()
                if holds(said):
                    return said
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"still {said}") from None


@asynccontextmanager
async def gateway_of(server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    api = await connect()
    gateway = Gateway(GatewayConfig(resources=Resources(), http=ANY, admin=ANY, in_cluster=True))
    await gateway.start()
    source = KubernetesSource(namespaces=[namespace], api=api)
    gateway.follow(source)
    try:
        async with httpx.AsyncClient(timeout=120) as client:
            yield Front(gateway, client)
    finally:
        await gateway.stop(0.0)
        await api.close()
