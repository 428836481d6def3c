"""The operator's own port: `/healthz` (liveness), `/readyz`, `/metrics`."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from proserve_operator.metrics import OperatorMetrics


async def serve_admin(
    host: str, port: int, *, metrics: OperatorMetrics, unhealthy: Callable[[], list[str]]
) -> web.AppRunner:
    """Open the port; the caller cleans the result up. `unhealthy()` says why the process should be started anew.

    Raises:
        OSError: the address can't be had.
    """

    async def healthz(_: web.Request) -> web.Response:
        reasons = unhealthy()
        return web.Response(text="\n".join(reasons) or "ok", status=503 if reasons else 200)

    async def readyz(_: web.Request) -> web.Response:
        # A replica that waits for the Lease is as ready as one can be.
        return web.Response(text="ok")

    async def metrics_(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics_)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
