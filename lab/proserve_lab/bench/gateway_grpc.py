"""What a gRPC call costs the gateway, next to a bare grpc.aio server that echoes, in turns on one core."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from proserve_lab.bench.grpc_load import INTERVAL_S, STREAM, UNARY, GrpcCounts
from proserve_lab.bench.proxies import Proxy, process
from proserve_lab.free_port import free_port

PING_MS = INTERVAL_S * 1e3


class GrpcResult(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time in the server, turn by turn; calls per second."""

    gateway_call_us: list[float] = []
    echo_call_us: list[float] = []
    gateway_calls_per_s: list[float] = []
    echo_calls_per_s: list[float] = []
    gateway_message_us: list[float] = []
    """Of a stream."""
    echo_message_us: list[float] = []


@contextmanager
def grpc_echo(folder: Path, core: int) -> Iterator[Proxy]:
    """The echo server as a process."""
    port = free_port()
    command = [sys.executable, "-m", "proserve_lab.bench.grpc_load", "echo", str(port)]
    with process(command, folder / "echo.out", port, core) as pid:
        yield Proxy(port, pid, grpc_port=port)


class GrpcBench:
    """Load on both servers in turns."""

    def __init__(self, *, gateway: Proxy, echo: Proxy, core: int) -> None:
        self._gateway, self._echo = gateway, echo
        self._core = core
        self.result = GrpcResult()

    def turn(self, seconds: float) -> None:
        """One turn of each, calls and streams."""
        result = self.result
        for server, calls, rates, messages in (
            (self._gateway, result.gateway_call_us, result.gateway_calls_per_s, result.gateway_message_us),
            (self._echo, result.echo_call_us, result.echo_calls_per_s, result.echo_message_us),
        ):
            counts, cpu_s = self._load(server, UNARY, seconds)
            calls.append(cpu_s / counts.calls * 1e6)
            rates.append(counts.calls / counts.seconds)
            counts, cpu_s = self._load(server, STREAM, seconds)
            messages.append(cpu_s / counts.messages * 1e6)

    def _load(self, server: Proxy, kind: str, seconds: float) -> tuple[GrpcCounts, float]:
        before_s = server.usage.cpu_s()
        command = [sys.executable, "-m", "proserve_lab.bench.grpc_load", "load", str(server.grpc_port), kind]
        done = subprocess.run(
            ["taskset", "-c", str(self._core), *command, str(seconds)],
            stdout=subprocess.PIPE,
            check=True,
            timeout=seconds + 60,
        )
        return msgspec.json.decode(done.stdout, type=GrpcCounts), server.usage.cpu_s() - before_s


def report(result: GrpcResult) -> list[str]:
    """Lines for people; there is no target, the echo is the floor."""
    median = statistics.median
    return [
        f"gRPC unary: CPU gateway {median(result.gateway_call_us):.0f} us, echo {median(result.echo_call_us):.0f} us; "
        f"calls/s gateway {median(result.gateway_calls_per_s):.0f}, echo {median(result.echo_calls_per_s):.0f}",
        f"gRPC stream: CPU per message gateway {median(result.gateway_message_us):.0f} us, "
        f"echo {median(result.echo_message_us):.0f} us",
    ]
