"""An HTTP proxy before an API server that refuses some requests as a busy one does, or takes its time with all."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession, TCPConnector, web

from api_server import ApiServer

REFUSALS = {
    409: ("Conflict", {}),
    429: ("TooManyRequests", {"Retry-After": "1"}),
    500: ("InternalError", {}),
    504: ("Timeout", {}),
}
_HOP_BY_HOP = {"connection", "content-length", "host", "transfer-encoding"}


class RefusingProxy:
    """Made by `refusing_proxy`. Watches get through untouched."""

    def __init__(self, server: ApiServer, session: ClientSession, seed: int) -> None:
        self._url = server.url
        self._session = session
        self._draw = random.Random(seed)
        self.share = 0.0
        """Of requests that are refused."""
        self.delay_s = 0.0
        self.refused: Counter[tuple[str, int]] = Counter()
        """By method and status."""
        self.kubeconfig = Path()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        watch = "watch" in request.query
        if not watch:
            await asyncio.sleep(self.delay_s)
            if self._draw.random() < self.share:
                return self._refuse(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with self._session.request(
            request.method, f"{self._url}{request.raw_path}", headers=headers, data=await request.read() or None
        ) as reply:
            kept = {name: value for name, value in reply.headers.items() if name.lower() not in _HOP_BY_HOP}
            answer = web.StreamResponse(status=reply.status, headers=kept)
            await answer.prepare(request)
            async for part in reply.content.iter_any():
                await answer.write(part)
            return answer

    def _refuse(self, request: web.Request) -> web.Response:
        # Only a write can be in conflict with another.
        status = self._draw.choice([each for each in REFUSALS if each != 409 or request.method != "GET"])
        self.refused[request.method, status] += 1
        reason, headers = REFUSALS[status]
        body = {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status,
            "message": f"refused by the test: {reason}",
        }  # fmt: skip
        return web.Response(status=status, headers=headers, text=json.dumps(body), content_type="application/json")


@asynccontextmanager
async def refusing_proxy(server: ApiServer, folder: Path, *, seed: int = 0) -> AsyncIterator[RefusingProxy]:
    """One that listens in plain HTTP and speaks to the server as its administrator."""
    connector = TCPConnector(ssl=server.tls, limit=0)
    # What comes compressed goes on as it is.
    async with ClientSession(connector=connector, auto_decompress=False) as session:
        proxy = RefusingProxy(server, session, seed)
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        (address,) = runner.addresses
        proxy.kubeconfig = folder / "refusing.kubeconfig"
        proxy.kubeconfig.write_text(
            f"""\
apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "http://127.0.0.1:{address[1]}"}}}}]
users: [{{name: test, user: {{}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
current-context: test
"""
        )
        try:
            yield proxy
        finally:
            await runner.cleanup()
