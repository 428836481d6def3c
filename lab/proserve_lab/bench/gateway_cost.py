"""The gateway's cost as a proxy, all figures in one run with what they are compared with."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

from proserve_lab.bench import gateway_grpc, gateway_rate, gateway_streams
from proserve_lab.bench.gateway_grpc import PING_MS, GrpcBench, GrpcResult, grpc_echo
from proserve_lab.bench.gateway_rate import RateBench, RateResult
from proserve_lab.bench.gateway_streams import StreamBench, StreamResult, stream_load
from proserve_lab.bench.proxies import gateway_proxy, need, nginx_proxy, nginx_upstream, two_cores
from proserve_lab.bench.stream_load import StreamCommand


class CostResult(msgspec.Struct, frozen=True, kw_only=True):
    """All parts."""

    requests: RateResult
    streams: StreamResult
    grpc: GrpcResult
    load_average: float


def run(*, turns: int = 5, seconds: int = 4) -> CostResult:
    """`turns` interleaved turns of `seconds` for each part.

    Raises:
        BenchError: nginx or wrk is missing, fewer than two cores, or a proxy answered with errors.
    """
    need("nginx", "wrk", "taskset")
    proxy_core, load_core = two_cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proserve-bench-")))
        upstream = stack.enter_context(nginx_upstream(folder / "upstream", load_core))
        load = stack.enter_context(stream_load(load_core))
        requests = RateBench(
            gateway=stack.enter_context(gateway_proxy(folder / "gateway-requests", [upstream], proxy_core)),
            nginx=stack.enter_context(nginx_proxy(folder / "nginx-requests", upstream, proxy_core)),
            upstream=upstream,
            folder=folder,
            core=load_core,
        )
        gateway = stack.enter_context(gateway_proxy(folder / "gateway-streams", [load.port], proxy_core))
        streams = StreamBench(
            gateway=gateway,
            nginx=stack.enter_context(nginx_proxy(folder / "nginx-streams", load.port, proxy_core)),
            load=load,
        )
        grpc = GrpcBench(gateway=gateway, echo=stack.enter_context(grpc_echo(folder, proxy_core)), core=load_core)
        requests.turn(1, counts=False)
        load.measure(StreamCommand(port=gateway.port, streams=1, chunks=10, seconds=1))
        for _ in range(turns):
            requests.turn(seconds)
            streams.turn(seconds)
            # The upstream keeps the pace of the last command.
            load.measure(StreamCommand(port=load.port, streams=1, chunks=10, seconds=0.1, interval_ms=PING_MS))
            grpc.turn(seconds / 2)
        return CostResult(
            requests=requests.result, streams=streams.result, grpc=grpc.result, load_average=os.getloadavg()[0]
        )


def report(result: CostResult) -> list[str]:
    """The lines that `make bench` prints."""
    return [
        *gateway_rate.report(result.requests),
        *gateway_streams.report(result.streams),
        *gateway_grpc.report(result.grpc),
        f"load average at the end: {result.load_average:.1f} on {os.cpu_count()} cores",
    ]
