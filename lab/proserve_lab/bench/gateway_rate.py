"""Requests of the gateway against nginx proxying the same ones: per second, and in CPU time of the proxy.

Both proxies take turns on one core; the load generator (wrk) and the upstream (nginx answering a fixed reply) share the
other. Method and target (0.45 of nginx's requests per second): docs/performance.md.
"""

import re
import statistics
import subprocess
from pathlib import Path

import msgspec

from proserve_lab.bench.proxies import API_KEY, BenchError, Proxy, request_body

TARGET = 0.45


class RateResult(msgspec.Struct, frozen=True, kw_only=True):
    """Turn by turn."""

    gateway_rps: list[float] = []
    nginx_rps: list[float] = []
    upstream_rps: list[float] = []
    gateway_us: list[float] = []
    """CPU time of a request in the proxy."""
    nginx_us: list[float] = []

    @property
    def ratio(self) -> float:
        """Median of the ratios of neighbouring turns."""
        return statistics.median(a / b for a, b in zip(self.gateway_rps, self.nginx_rps, strict=True))

    @property
    def cpu_ratio(self) -> float:
        """What the ratio would be if each proxy had its core to itself."""
        return statistics.median(b / a for a, b in zip(self.gateway_us, self.nginx_us, strict=True))


class RateBench:
    """Load on two proxies and on their upstream alone, in turns."""

    def __init__(self, *, gateway: Proxy, nginx: Proxy, upstream: int, folder: Path, core: int) -> None:
        self._gateway, self._nginx, self._upstream = gateway, nginx, upstream
        self._script = folder / "post.lua"
        self._script.write_text(wrk_script())
        self._core = core
        self.result = RateResult()

    def turn(self, seconds: int, *, counts: bool = True, connections: int = 64) -> None:
        """One turn of each; `counts` False warms up."""
        result = self.result
        for proxy, rates, costs in (
            (self._gateway, result.gateway_rps, result.gateway_us),
            (self._nginx, result.nginx_rps, result.nginx_us),
        ):
            before_s = proxy.usage.cpu_s()
            rate, requests = self._wrk(proxy.port, seconds=seconds, connections=connections)
            if counts:
                rates.append(rate)
                costs.append((proxy.usage.cpu_s() - before_s) / requests * 1e6)
        rate, _ = self._wrk(self._upstream, seconds=1, connections=connections)
        if counts:
            result.upstream_rps.append(rate)

    def _wrk(self, port: int, *, seconds: int, connections: int) -> tuple[float, int]:
        """Requests per second, and requests."""
        command = [
            "taskset",
            "-c",
            str(self._core),
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "30s",
        ]
        done = subprocess.run(
            [*command, "-s", str(self._script), f"http://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=True,
        )
        if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
            raise BenchError(f"errors under load on port {port}:\n{done.stdout}")
        rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
        requests = re.search(r"(\d+) requests in", done.stdout)
        if rate is None or requests is None:
            raise BenchError(f"wrk printed no rate:\n{done.stdout}")
        return float(rate[1]), int(requests[1])


def wrk_script() -> str:
    """The request as wrk wants it."""
    return (
        'wrk.method = "POST"\n'
        'wrk.path = "/v1/chat/completions"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {API_KEY}"\n'
        f"wrk.body = '{request_body()}'\n"
    )


def report(result: RateResult) -> list[str]:
    """Lines for people, each figure next to its target."""
    gateway, nginx, upstream = (
        statistics.median(rates) for rates in (result.gateway_rps, result.nginx_rps, result.upstream_rps)
    )
    gateway_us, nginx_us = statistics.median(result.gateway_us), statistics.median(result.nginx_us)
    verdict = "met" if result.ratio >= TARGET else "missed"
    limit = "not the limit" if upstream > 1.5 * max(gateway, nginx) else "may be the limit: read the CPU times only"
    return [
        f"requests: gateway {gateway:.0f}/s, nginx {nginx:.0f}/s: ratio {result.ratio:.2f}, "
        f"target >= {TARGET:.2f} ({verdict})",
        f"requests: CPU gateway {gateway_us:.1f} us, nginx {nginx_us:.1f} us: ratio {result.cpu_ratio:.2f}",
        f"requests: load and upstream alone {upstream:.0f}/s: {limit}",
    ]
