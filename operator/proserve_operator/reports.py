"""Asks every gateway behind the admin Service for its report."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from proserve_core.access_keys import AccessKeysError, parse_keys
from proserve_core.gain_report import REPORT_PATH, EngineReport, GainReport
from proserve_operator.gain_window import GainWindow

logger = logging.getLogger(__name__)

ANSWER_S = 5.0


class Reports:
    """The newest report of each gateway, and the gain of late."""

    def __init__(self, admin_url: str | None, *, key_file: Path | None = None) -> None:
        """`admin_url` is `http://HOST:PORT`; all addresses of the host are asked. The first line of `key_file` is the
        key of the admin port; it is read each time, so that it can be renewed."""
        self._url = None if admin_url is None else urlsplit(admin_url)
        self._key_file = key_file
        self.window = GainWindow()
        self.newest: Sequence[GainReport] = ()
        self.silent = 0
        """Gateways that did not answer last time."""

    async def read(self, *, now_s: float) -> None:
        """Ask all gateways once. One that does not answer is left out: others serve on, and what it
        served meanwhile counts with its next answer, unless that is later than the window is long."""
        if self._url is None:
            return
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers()) as session:
            answers = await asyncio.gather(*(self._ask(session, address) for address in await self._addresses()))
        self.newest = [answer for answer in answers if answer is not None]
        self.silent = len(answers) - len(self.newest)
        self.window.take(self.newest, now_s=now_s)

    def _headers(self) -> dict[str, str]:
        if self._key_file is None:
            return {}
        try:
            key = parse_keys(self._key_file.read_text())[0]
        except (OSError, UnicodeDecodeError, AccessKeysError) as error:
            logger.warning("gateways: no key for their admin port in %s: %r", self._key_file, error)
            return {}
        return {"Authorization": f"Bearer {key}"}

    async def _addresses(self) -> list[str]:
        url = self._url
        if url is None or url.hostname is None:
            return []
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.hostname, url.port or 80, type=socket.SOCK_STREAM)
        except OSError as error:
            logger.warning("gateways: %s cannot be looked up: %s", url.hostname, error)
            return []
        addresses = sorted({(str(address[0]), int(address[1])) for *_, address in found})
        return [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host, port in addresses]

    async def _ask(self, session: aiohttp.ClientSession, address: str) -> GainReport | None:
        try:
            async with session.get(address + REPORT_PATH) as reply:
                if reply.status != 200:
                    raise aiohttp.ClientError(f"answered {reply.status}")
                return msgspec.json.decode(await reply.read(), type=GainReport)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.warning("gateway %s: no report: %r", address, error)
            return None

    def problems(self, kind: str, namespace: str, name: str) -> list[str]:
        """What gateways say is wrong with a resource."""
        found = (each for report in self.newest for each in report.problems.get(f"{kind}/{namespace}/{name}", ()))
        return list(dict.fromkeys(found))

    def loss_with_one_less(self, pool: str) -> float | None:
        """As gateways predict it, the worst of them; None: nobody can tell."""
        known = [each.loss_with_one_less[pool] for each in self.newest if pool in each.loss_with_one_less]
        return max(known, default=None)

    def open_requests(self, pool: str) -> int:
        """Requests that wait for an engine of the pool or run there."""
        return sum(report.open_requests.get(pool, 0) for report in self.newest)

    def stakes(self, pool: str) -> dict[str, float]:
        """Gain per step at each engine of a pool, over all gateways' views of it."""
        stakes: dict[str, float] = {}
        for engine in self.engines(pool):
            stakes[engine.name] = max(stakes.get(engine.name, 0.0), engine.stake)
        return stakes

    def engines(self, pool: str) -> list[EngineReport]:
        """Engines of a pool, once for each gateway."""
        return [engine for report in self.newest for engine in report.engines if engine.pool == pool]
