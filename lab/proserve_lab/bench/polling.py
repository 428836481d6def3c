"""What it costs to follow many engines, and how old their snapshots are.

A gateway without requests polls engines that are one process on another core (`polled_engines`), each busy with steps
of 30 ms. First its CPU time is taken with nobody asking it anything, then the ages of its snapshots from `/status`.
"""

import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from proserve_lab.bench.proxies import Proxy, need, process, two_cores

CORE_TARGET = 0.10
STALENESS_TARGET_MS = 20.0
FIRST_PORT = 21000
LOOKS = 20
"""At the ages of all snapshots."""

_POLLS = "proserve_gateway_engine_polls_total"

Start = Callable[[Path, list[str], int], AbstractContextManager[Proxy]]
"""Starts a gateway in a folder, in front of engines with these addresses, on a core."""


class PollingResult(msgspec.Struct, frozen=True, kw_only=True):
    """One number of engines."""

    engines: int
    core: float
    """Share of a core."""
    polls_per_s: float
    age_ms: list[float]
    """Of a snapshot at any moment: p50 and p99."""


def run(*, engines: int, seconds: float, start: Start) -> PollingResult:
    """Follow `engines` for `seconds`.

    Raises:
        BenchError: fewer than two cores, or a part did not start.
    """
    need("taskset")
    gateway_core, engine_core = two_cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="proserve-bench-")))
        command = [sys.executable, "-m", "proserve_lab.bench.polled_engines", str(engines), str(FIRST_PORT)]
        stack.enter_context(process(command, folder / "engines.out", FIRST_PORT + engines - 1, engine_core))
        urls = [f"http://127.0.0.1:{FIRST_PORT + number}" for number in range(engines)]
        gateway = stack.enter_context(start(folder, urls, gateway_core))
        time.sleep(2.0)
        before_s, before_polls, at_s = gateway.usage.cpu_s(), _polls(gateway), time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - at_s
        cpu_s, polls = gateway.usage.cpu_s() - before_s, _polls(gateway) - before_polls
        ages_ms: list[float] = []
        for _ in range(LOOKS):
            time.sleep(0.237)
            rows = json.loads(_get(gateway, "/status"))["engines"]
            ages_ms += [row["poll_age_s"] * 1e3 for row in rows]
        cuts = statistics.quantiles(ages_ms, n=100)
        return PollingResult(
            engines=engines, core=cpu_s / took_s, polls_per_s=polls / took_s, age_ms=[cuts[49], cuts[98]]
        )


def _polls(gateway: Proxy) -> float:
    lines = _get(gateway, "/metrics").splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith("proserve_gateway_engine_polls_total")
    )


def _get(gateway: Proxy, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}{path}", timeout=30) as reply:
        text: str = reply.read().decode()
        return text


def report(result: PollingResult) -> str:
    """The line for people, each figure next to its target."""
    p50_ms, p99_ms = result.age_ms
    return (
        f"{result.engines} busy engines: {result.polls_per_s:.0f} polls/s take {100 * result.core:.1f}% of a core, "
        f"target < {100 * CORE_TARGET:.0f}% ({'met' if result.core < CORE_TARGET else 'missed'}); snapshots are "
        f"{p50_ms:.0f} ms old (p50; p99 {p99_ms:.0f} ms), target < {STALENESS_TARGET_MS:.0f} ms "
        f"({'met' if p50_ms < STALENESS_TARGET_MS else 'missed'})"
    )
