"""Requests per second of the gateway as a share of nginx proxying the same requests.

Both proxies take turns on one core; the load generator (wrk) and the upstream (nginx answering a fixed reply) share the
other. Absolute figures of a machine mean little, the ratio of neighbouring turns does. Method and target (0.45):
docs/performance.md.
"""

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

TARGET = 0.45
API_KEY = "sk-bench"
REPLY_BYTES = 910
REQUEST_BYTES = 530


class BenchError(RuntimeError):
    """The benchmark can't run or its parts misbehaved; the message says what to do."""


class RateResult(msgspec.Struct, frozen=True, kw_only=True):
    """Requests per second, turn by turn."""

    gateway_rps: list[float]
    nginx_rps: list[float]
    upstream_rps: list[float]

    @property
    def ratio(self) -> float:
        """Median of the ratios of neighbouring turns."""
        return statistics.median(a / b for a, b in zip(self.gateway_rps, self.nginx_rps, strict=True))


def run(*, turns: int = 5, seconds: int = 4, connections: int = 64) -> RateResult:
    """Measure `turns` interleaved turns of `seconds` each.

    Raises:
        BenchError: nginx or wrk is missing, fewer than two cores, or a proxy answered with errors.
    """
    for tool in ("nginx", "wrk"):
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is not installed: install the package {tool} and run again")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for the proxy, one for load and upstream")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proserve-bench-")))
        upstream = stack.enter_context(_nginx(folder / "upstream", _upstream_server, cores[1]))
        proxy = stack.enter_context(_nginx(folder / "proxy", lambda port: _proxy_server(port, upstream), cores[0]))
        gateway = stack.enter_context(_gateway(folder, upstream, cores[0]))
        script = folder / "post.lua"
        script.write_text(_wrk_script())
        result = RateResult(gateway_rps=[], nginx_rps=[], upstream_rps=[])
        for turn in range(turns + 1):
            for rates, port in (
                (result.gateway_rps, gateway),
                (result.nginx_rps, proxy),
                (result.upstream_rps, upstream),
            ):
                rate = _wrk(script, port, seconds=1 if turn == 0 else seconds, connections=connections, core=cores[1])
                if turn > 0:
                    rates.append(rate)
        return result


def _wrk(script: Path, port: int, *, seconds: int, connections: int, core: int) -> float:
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, timeout=seconds + 60, check=True
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise BenchError(f"errors under load on port {port}:\n{done.stdout}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None:
        raise BenchError(f"wrk printed no rate:\n{done.stdout}")
    return float(found.group(1))


def _wrk_script() -> str:
    body = {"model": "bench", "max_tokens": 16, "messages": [{"role": "user", "content": ""}]}
    padding = REQUEST_BYTES - len(json.dumps(body))
    body["messages"] = [{"role": "user", "content": "x" * padding}]
    return (
        'wrk.method = "POST"\n'
        'wrk.path = "/v1/chat/completions"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {API_KEY}"\n'
        f"wrk.body = '{json.dumps(body)}'\n"
    )


def _reply() -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 120, "completion_tokens": 16, "total_tokens": 136}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "bench", "choices": [choice]}
    reply["usage"] = usage
    choice["message"] = {"role": "assistant", "content": "y" * (REPLY_BYTES - len(json.dumps(reply)))}
    return json.dumps(reply)


def _upstream_server(port: int) -> str:
    return (
        f"server {{ listen 127.0.0.1:{port} backlog=1024; default_type application/json;"
        f" location / {{ return 200 '{_reply()}'; }} }}"
    )


def _proxy_server(port: int, upstream: int) -> str:
    return (
        f"upstream engines {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000; }}"
        f" server {{ listen 127.0.0.1:{port} backlog=1024;"
        ' location / { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; } }'
    )


@contextmanager
def _nginx(folder: Path, server: Callable[[int], str], core: int) -> Iterator[int]:
    port = _free_port()
    folder.mkdir()
    text = server(port)
    temp = "".join(
        f" {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 1000000;{temp} {text} }}\n"
    )
    command = ["taskset", "-c", str(core), "nginx", "-c", str(config), "-e", f"{folder}/error.log"]
    with _process(command, folder / "nginx.out", port):
        yield port


@contextmanager
def _gateway(folder: Path, upstream: int, core: int) -> Iterator[int]:
    port, admin, grpc = _free_port(), _free_port(), _free_port()
    resources = folder / "bench.yaml"
    resources.write_text(_resources(upstream))
    command = ["taskset", "-c", str(core), sys.executable, "-m", "proserve_cli.main", "gateway", "-f", str(resources)]
    command += ["--http", f"127.0.0.1:{port}", "--grpc", f"127.0.0.1:{grpc}", "--admin", f"127.0.0.1:{admin}"]
    with _process(command, folder / "gateway.out", port):
        yield port


@contextmanager
def _process(command: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            deadline_s = time.monotonic() + 30
            while not _listening(port):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise BenchError(f"{' '.join(command)} did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _resources(upstream: int) -> str:
    return f"""\
apiVersion: proserve.dev/v1alpha1
kind: PriorityClass
metadata: {{name: bench}}
spec:
  weight: 1
  objectives: {{timeToFirstToken: 1s, timePerOutputToken: 50ms}}
---
apiVersion: v1
kind: Secret
metadata: {{name: bench-keys}}
stringData: {{key: {API_KEY}}}
---
apiVersion: proserve.dev/v1alpha1
kind: Tenant
metadata: {{name: bench}}
spec:
  priorityClassName: bench
  apiKeys: [{{secretKeyRef: {{name: bench-keys, key: key}}}}]
---
apiVersion: proserve.dev/v1alpha1
kind: EnginePool
metadata: {{name: bench}}
spec:
  model: {{name: bench}}
  endpoints: [{{url: "http://127.0.0.1:{upstream}"}}]
"""


def report(result: RateResult) -> str:
    """The line `make bench` prints."""
    gateway, nginx = statistics.median(result.gateway_rps), statistics.median(result.nginx_rps)
    upstream = statistics.median(result.upstream_rps)
    verdict = "met" if result.ratio >= TARGET else "missed"
    return (
        f"gateway {gateway:.0f} req/s, nginx {nginx:.0f} req/s, upstream alone {upstream:.0f} req/s: "
        f"ratio {result.ratio:.2f}, target >= {TARGET:.2f} ({verdict})"
    )
