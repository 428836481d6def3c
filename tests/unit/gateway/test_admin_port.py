"""The admin port serves again after a fault of its server."""

import asyncio
from typing import Any

import httpx

from proserve_gateway.admin.http_server import HttpServer
from proserve_gateway.background import Background
from proserve_gateway.metrics import GatewayMetrics


async def hello(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_it_serves_again_on_the_same_port_after_a_fault() -> None:
    metrics = GatewayMetrics()
    background = Background(metrics, pause_s=0.01)
    server = HttpServer(hello, host="127.0.0.1", port=0, background=background)
    await server.start()
    failing = server._server

    async def fault(counter: int) -> bool:
        raise RuntimeError(f"out of ticks at {counter}")

    failing.on_tick = fault  # type: ignore[method-assign]
    async with asyncio.timeout(30):
        while server._server is failing:  # noqa: ASYNC110 there is no event for it
            await asyncio.sleep(0.01)
        await server._server.up.wait()
    async with httpx.AsyncClient(verify=False) as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).text == "hello"
    (family,) = metrics.background_failures.collect()
    assert {sample.labels["task"]: sample.value for sample in family.samples}["admin port"] == 1
    server.close()
    await server.wait_closed(5.0)
    await background.stop()
