"""Streams of the gateway against nginx proxying the same ones: CPU per chunk, time added, memory per stream.

Upstream and client are one process (`stream_load`) on a core of its own; a turn without a proxy says what they take
themselves, and whether they are the limit.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from proserve_lab.bench.proxies import BenchError, Proxy, is_listening
from proserve_lab.bench.stream_load import StreamCommand, StreamTimes
from proserve_lab.free_port import free_port

CHUNK_RATIO_TARGET = 1.3
FIRST_BYTE_TARGET_US = 250.0
DELAY_TARGET_US = 3000.0
BASE_TARGET_BYTES = 60e6
PER_STREAM_TARGET_BYTES = 20e3

FEW = 64
"""Streams of a few chunks each, for the time to the first byte."""
MANY = 256
"""Long streams with a chunk every 10 ms."""


class StreamResult(msgspec.Struct, frozen=True, kw_only=True):
    """Turn by turn; microseconds and bytes."""

    gateway_chunk_us: list[float] = []
    """CPU time of a chunk in the proxy."""
    nginx_chunk_us: list[float] = []
    first_byte_us: dict[str, list[float]] = {}
    """p50, by proxy; `direct` without one."""
    delay_p50_us: dict[str, list[float]] = {}
    delay_p99_us: dict[str, list[float]] = {}
    chunks_per_s: dict[str, list[float]] = {}
    base_bytes: list[int] = []
    """Resident set of the gateway before the streams."""
    per_stream_bytes: list[float] = []


class StreamLoad:
    """The load process."""

    def __init__(self, started: "subprocess.Popen[bytes]", port: int) -> None:
        self._process = started
        self.port = port
        """Of the upstream."""

    def measure(self, command: StreamCommand) -> StreamTimes:
        """Run one command.

        Raises:
            BenchError: the process ended, or streams broke.
        """
        self.begin(command)
        return self.result()

    def begin(self, command: StreamCommand) -> None:
        """Start a command whose `result` is read later."""
        if self._process.stdin is None:
            raise AssertionError("the load process has pipes")
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()

    def result(self) -> StreamTimes:
        """Of the command that was begun."""
        if self._process.stdout is None:
            raise AssertionError("the load process has pipes")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the load process ended with status {self._process.wait()}")
        times = msgspec.json.decode(line, type=StreamTimes)
        if times.errors:
            raise BenchError(f"{times.errors} streams broke")
        return times


@contextmanager
def stream_load(core: int) -> Iterator[StreamLoad]:
    """The load process on a core."""
    port = free_port()
    command = ["taskset", "-c", str(core), sys.executable, "-m", "proserve_lab.bench.stream_load", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        try:
            end_s = time.monotonic() + 30
            while not is_listening(port):
                if started.poll() is not None or time.monotonic() > end_s:
                    raise BenchError("the load process did not start: its errors are above")
                time.sleep(0.05)
            yield StreamLoad(started, port)
        finally:
            started.terminate()


class StreamBench:
    """Load on two proxies and on their upstream alone, in turns."""

    def __init__(self, *, gateway: Proxy, nginx: Proxy, load: StreamLoad) -> None:
        self._gateway, self._nginx, self._load = gateway, nginx, load
        self.result = StreamResult()

    def turn(self, seconds: float) -> None:
        """One turn of each."""
        result = self.result
        for name, port in (("gateway", self._gateway.port), ("nginx", self._nginx.port), ("direct", self._load.port)):
            few = self._load.measure(StreamCommand(port=port, streams=FEW, chunks=10, seconds=seconds / 2))
            result.first_byte_us.setdefault(name, []).append(few.first_byte_us[0])
        for name, proxy, costs in (
            ("gateway", self._gateway, result.gateway_chunk_us),
            ("nginx", self._nginx, result.nginx_chunk_us),
            ("direct", None, []),
        ):
            self._long(name, proxy, costs, seconds)

    def _long(self, name: str, proxy: Proxy | None, costs: list[float], seconds: float) -> None:
        result = self.result
        port = self._load.port if proxy is None else proxy.port
        self._load.begin(StreamCommand(port=port, streams=MANY, chunks=100_000, seconds=seconds))
        if proxy is None:
            times = self._load.result()
        else:
            base = proxy.usage.resident_bytes()
            time.sleep(1.0)  # until the streams have begun
            before_s, at_s = proxy.usage.cpu_s(), time.monotonic()
            time.sleep(max(0.5, seconds - 1.5))
            cpu_s, took_s = proxy.usage.cpu_s() - before_s, time.monotonic() - at_s
            full = proxy.usage.resident_bytes()
            times = self._load.result()
            costs.append(cpu_s / (times.chunks / seconds * took_s) * 1e6)
            if proxy is self._gateway:
                result.base_bytes.append(base)
                result.per_stream_bytes.append((full - base) / MANY)
        result.delay_p50_us.setdefault(name, []).append(times.delay_us[0])
        result.delay_p99_us.setdefault(name, []).append(times.delay_us[1])
        result.chunks_per_s.setdefault(name, []).append(times.chunks / seconds)


def report(result: StreamResult) -> list[str]:
    """Lines for people, each figure next to its target."""
    median = statistics.median
    gateway_us, nginx_us = median(result.gateway_chunk_us), median(result.nginx_chunk_us)
    ratio = median(a / b for a, b in zip(result.gateway_chunk_us, result.nginx_chunk_us, strict=True))
    first = {name: median(values) for name, values in result.first_byte_us.items()}
    added = median(a - b for a, b in zip(result.first_byte_us["gateway"], result.first_byte_us["direct"], strict=True))
    p50, p99, rate = (
        {name: median(values) for name, values in each.items()}
        for each in (result.delay_p50_us, result.delay_p99_us, result.chunks_per_s)
    )
    # The first turn holds what a process takes once; what comes after is what streams take again.
    base, stream = min(result.base_bytes), result.per_stream_bytes[0]
    allowed = BASE_TARGET_BYTES + MANY * PER_STREAM_TARGET_BYTES
    return [
        f"streams: CPU per chunk gateway {gateway_us:.1f} us, nginx {nginx_us:.1f} us: ratio {ratio:.2f}, "
        f"target <= {CHUNK_RATIO_TARGET} ({_met(ratio <= CHUNK_RATIO_TARGET)})",
        f"streams: first byte p50 at {FEW}: gateway {first['gateway']:.0f} us, nginx {first['nginx']:.0f} us, direct "
        f"{first['direct']:.0f} us: added {added:.0f} us, target <= {FIRST_BYTE_TARGET_US:.0f} us "
        f"({_met(added <= FIRST_BYTE_TARGET_US)})",
        f"streams: chunk delay p50/p99 at {MANY} x 10 ms: gateway {_ms(p50, p99, 'gateway')}, nginx "
        f"{_ms(p50, p99, 'nginx')}, direct {_ms(p50, p99, 'direct')} ms, target p99 <= {DELAY_TARGET_US / 1e3:.0f} ms "
        f"({_met(p99['gateway'] <= DELAY_TARGET_US)})",
        f"streams: chunks/s gateway {rate['gateway']:.0f}, nginx {rate['nginx']:.0f}, direct {rate['direct']:.0f}, "
        f"offered {MANY * 100}",
        f"memory: {base / 1e6:.1f} MB and {stream / 1e3:.1f} kB per stream, target <= {BASE_TARGET_BYTES / 1e6:.0f} MB "
        f"and {PER_STREAM_TARGET_BYTES / 1e3:.0f} kB ({_met(base + MANY * stream <= allowed)})",
    ]


def _ms(p50: dict[str, float], p99: dict[str, float], name: str) -> str:
    return f"{p50[name] / 1e3:.2f}/{p99[name] / 1e3:.2f}"


def _met(met: bool) -> str:
    return "met" if met else "missed"
