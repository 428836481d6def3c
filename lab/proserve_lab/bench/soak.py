"""Mixed traffic for a long time, and whether memory and descriptors of the gateway stay flat.

Streams that end, clients that leave inside one, whole replies, keys that are wrong, bodies that are broken, new
connections and kept ones, at a steady rate. Every minute the gateway's resident set and open files are noted. The first
half is for caches to fill (the largest: decisions that `proserve explain` remembers); a straight line through the rest
says what an hour adds.
"""

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from proserve_lab.bench.gateway_streams import stream_load
from proserve_lab.bench.proxies import API_KEY, Proxy, gateway_proxy, need, request_body, two_cores

GROWTH_TARGET_MB_PER_H = 4.0
"""Noise of the allocator on a machine with neighbours; a leak of 100 bytes a request is 7 MB/h at 20 requests/s."""
SETTLED = 0.5
"""Part of the time that does not count."""


class SoakResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent, and the gateway from sample to sample."""

    seconds: float
    requests: dict[str, int]
    failures: dict[str, int]
    """Answers that were not what they should be, by kind of traffic and what came instead."""
    sample_s: list[float]
    resident_mb: list[float]
    descriptors: list[int]

    @property
    def settled(self) -> slice:
        """Samples that count."""
        return slice(int(len(self.sample_s) * SETTLED), None)

    @property
    def growth_mb_per_h(self) -> float:
        """Slope of the resident set."""
        times, sizes = self.sample_s[self.settled], self.resident_mb[self.settled]
        return statistics.linear_regression(times, sizes).slope * 3600


class _Traffic:
    """One kind of request after the other, each on its own connection or on one that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(self, number: int) -> None:
        """The request of this number."""
        kinds: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("stream", self._stream),
            ("whole", self._whole),
            ("stream", self._stream),
            ("leaves", self._leaves),
            ("stream", self._stream),
            ("wrong key", lambda: self._refused(b"401", key="sk-wrong")),
            ("whole", self._whole),
            ("broken body", lambda: self._refused(b"400", body=b'{"model": "bench", ')),
        ]
        name, run = kinds[number % len(kinds)]
        self.sent[name] += 1
        try:
            async with asyncio.timeout(60):
                wrong = await run()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            wrong = type(error).__name__
        if wrong:
            self.failed[f"{name}: {wrong}"] += 1

    async def _ask(self, body: bytes, *, key: str = API_KEY) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        _write(writer, body, key)
        return reader, writer

    async def _stream(self) -> str:
        """What is wrong with the answer; empty: nothing. So it is with all of them."""
        reader, writer = await self._ask(request_body(max_tokens=20, stream=True).encode())
        with contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            if wrong := _other_status(head, b"200"):
                return wrong
            events = await reader.readuntil(b"0\r\n\r\n")
        return "" if b"data: [DONE]" in events and b'"error"' not in events else "a stream without its end"

    async def _leaves(self) -> str:
        reader, writer = await self._ask(request_body(max_tokens=1000, stream=True).encode())
        wrong = _other_status(await reader.readuntil(b"\r\n\r\n"), b"200")
        if not wrong:
            await reader.readuntil(b"data: ")
        writer.transport.abort()
        return wrong

    async def _whole(self) -> str:
        kept = self._kept
        while kept and kept[-1][0].at_eof():
            # Idle for too long: the server closed it.
            kept.pop()[1].close()
        reader, writer = kept.pop() if kept else await asyncio.open_connection("127.0.0.1", self._port)
        _write(writer, request_body().encode(), API_KEY)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        kept.append((reader, writer))
        return _other_status(head, b"200")

    async def _refused(self, status: bytes, *, key: str = API_KEY, body: bytes | None = None) -> str:
        reader, writer = await self._ask(body or request_body().encode(), key=key)
        with contextlib.closing(writer):
            return _other_status(await reader.readuntil(b"\r\n\r\n"), status)


def _other_status(head: bytes, wanted: bytes) -> str:
    """The status of an answer that should have had another one."""
    status = head[9:12]
    return "" if status == wanted else status.decode(errors="replace")


def _write(writer: asyncio.StreamWriter, body: bytes, key: str) -> None:
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
        % (key.encode(), len(body), body)
    )


def run(*, minutes: float, rate: float, say: Callable[[str], None]) -> SoakResult:
    """`rate` requests per second for `minutes`.

    Raises:
        BenchError: fewer than two cores, or a part did not start.
    """
    need("taskset")
    gateway_core, load_core = two_cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="proserve-soak-")))
        load = stack.enter_context(stream_load(load_core))
        gateway = stack.enter_context(gateway_proxy(folder / "gateway", [load.port], gateway_core))
        return asyncio.run(_run(gateway, minutes * 60, rate, say))


async def _run(gateway: Proxy, seconds: float, rate: float, say: Callable[[str], None]) -> SoakResult:
    await asyncio.sleep(1.0)
    traffic = _Traffic(gateway.port)
    began_s = time.monotonic()
    samples: list[tuple[float, float, int]] = []
    every_s = max(1.0, min(60.0, seconds / 60))
    tasks: set[asyncio.Task[None]] = set()
    number = 0
    while (now_s := time.monotonic() - began_s) < seconds:
        if now_s >= every_s * len(samples):
            usage = gateway.usage
            samples.append((now_s, usage.resident_bytes() / 1e6, usage.descriptors()))
            say(f"{now_s:6.0f} s: {samples[-1][1]:.1f} MB, {samples[-1][2]} descriptors, {number} requests")
        task = asyncio.create_task(traffic.one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        await asyncio.sleep(max(0.0, began_s + number / rate - time.monotonic()))
    await asyncio.gather(*tasks)
    return SoakResult(
        seconds=seconds,
        requests=dict(traffic.sent),
        failures=dict(traffic.failed),
        sample_s=[sample[0] for sample in samples],
        resident_mb=[sample[1] for sample in samples],
        descriptors=[sample[2] for sample in samples],
    )


def report(result: SoakResult) -> list[str]:
    """Lines for people."""
    sizes, files = result.resident_mb[result.settled], result.descriptors[result.settled]
    growth = result.growth_mb_per_h
    third = max(1, len(files) // 3)
    first, last = statistics.median(files[:third]), statistics.median(files[-third:])
    counts = ", ".join(f"{count} {name}" for name, count in sorted(result.requests.items()))
    wrong = ", ".join(f"{count} {name}" for name, count in sorted(result.failures.items())) or "none"
    return [
        f"{result.seconds / 60:.0f} min: {counts}; answers that were not as they should be: {wrong}",
        f"memory: {min(sizes):.1f} to {max(sizes):.1f} MB, {growth:+.1f} MB per hour, target < "
        f"{GROWTH_TARGET_MB_PER_H:.0f} ({'met' if growth < GROWTH_TARGET_MB_PER_H else 'missed'})",
        f"descriptors: median of the first third {first:.0f}, of the last {last:.0f}, most {max(files)}",
    ]
