"""A gateway's admin port that reports what a test says."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from local_server import QuietHandler, local_server
from proserve_core.gain_report import REPORT_PATH, GainReport


class FakeGateway:
    """Made by `fake_gateway`."""

    def __init__(self) -> None:
        self.url = ""
        self.report = GainReport(instance="g", classes={}, tenants={}, pools={}, engines=[], loss_with_one_less={})
        self.answers = 0
        """Reports that were asked for."""

    async def say(self, report: GainReport, *, limit_s: float = 300.0) -> None:
        """Report this from now on; returns when an operator knows it, who asks again
        when it has taken an answer, and may be taking an older one now."""
        self.report = report
        enough = self.answers + 3
        async with asyncio.timeout(limit_s):
            while True:
                if self.answers >= enough:
                    return
                await asyncio.sleep(0.05)


@contextmanager
def fake_gateway() -> Iterator[FakeGateway]:
    """There until the end."""
    gateway = FakeGateway()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - name of http.server
            content = msgspec.json.encode(gateway.report)
            self.send_response(200 if self.path == REPORT_PATH else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            gateway.answers += 1

    with local_server(Handler) as address:
        gateway.url = f"http://{address}"
        yield gateway
