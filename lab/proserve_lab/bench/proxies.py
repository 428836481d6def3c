"""The processes that the gateway's benchmarks compare, pinned to cores, and what they cost.

The proxy that is measured has one core, load and upstream have the other. Time of a machine with neighbours means
little: what counts is CPU time that the measured process itself took (user and system), from /proc.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proserve_lab.free_port import free_port

API_KEY = "sk-bench"
MODEL = "bench"
REPLY_BYTES = 910
REQUEST_BYTES = 530
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(RuntimeError):
    """The benchmark can't run or its parts misbehaved; the message says what to do."""


def need(*tools: str) -> None:
    """
    Raises:
        BenchError: one of these programs is missing.
    """
    for tool in tools:
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is not installed: install the package {tool} and run again")


def two_cores() -> tuple[int, int]:
    """For the proxy, and for load and upstream.

    Raises:
        BenchError: there are not two.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for the proxy, one for load and upstream")
    return cores[0], cores[1]


class Usage:
    """CPU time and memory of a process, its children not included."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def resident_bytes(self) -> int:
        """Resident set."""
        return int((self._folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open files."""
        return len(list((self._folder / "fd").iterdir()))


class Proxy:
    """Something that is measured."""

    def __init__(self, port: int, pid: int, *, grpc_port: int = 0, admin_port: int = 0) -> None:
        self.port = port
        self.grpc_port = grpc_port
        self.admin_port = admin_port
        self.usage = Usage(pid)


def request_body(*, size: int = REQUEST_BYTES, max_tokens: int = 16, stream: bool = False) -> str:
    """A chat request of `size` bytes."""
    body = {"model": MODEL, "max_tokens": max_tokens, "messages": [{"role": "user", "content": ""}]}
    if stream:
        body["stream"] = True
    padding = size - len(json.dumps(body))
    body["messages"] = [{"role": "user", "content": "x" * padding}]
    return json.dumps(body)


def reply_body() -> str:
    """The reply to it, not streamed."""
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 120, "completion_tokens": 16, "total_tokens": 136}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    reply["usage"] = usage
    choice["message"] = {"role": "assistant", "content": "y" * (REPLY_BYTES - len(json.dumps(reply)))}
    return json.dumps(reply)


@contextmanager
def nginx_upstream(folder: Path, core: int) -> Iterator[int]:
    """nginx answering a fixed reply; its port."""
    with _nginx(
        folder,
        lambda port: (
            f"server {{ listen 127.0.0.1:{port} backlog=1024; default_type application/json;"
            f" location / {{ return 200 '{reply_body()}'; }} }}"
        ),
        core,
    ) as proxy:
        yield proxy.port


@contextmanager
def nginx_proxy(folder: Path, upstream: int, core: int) -> Iterator[Proxy]:
    """nginx in front of a server on this machine."""
    with _nginx(
        folder,
        lambda port: (
            f"upstream engines {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000; }}"
            f" server {{ listen 127.0.0.1:{port} backlog=1024;"
            ' location / { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";'
            " proxy_buffering off; } }"
        ),
        core,
    ) as proxy:
        yield proxy


@contextmanager
def _nginx(folder: Path, server: Callable[[int], str], core: int) -> Iterator[Proxy]:
    port = free_port()
    folder.mkdir()
    temp = "".join(
        f" {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    # Without a master process: what is measured is the one that was started.
    config.write_text(
        f"master_process off; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 8192; }\n"
        f"http {{ access_log off; keepalive_requests 1000000;{temp} {server(port)} }}\n"
    )
    with process(["nginx", "-c", str(config), "-e", f"{folder}/error.log"], folder / "out", port, core) as pid:
        yield Proxy(port, pid)


@contextmanager
def gateway_proxy(folder: Path, upstreams: list[int], core: int) -> Iterator[Proxy]:
    """`proserve gateway` in front of servers on this machine, with all that it does by default."""
    folder.mkdir()
    port, admin, grpc = free_port(), free_port(), free_port()
    resources = folder / "bench.yaml"
    resources.write_text(resources_text(upstreams))
    command = [sys.executable, "-m", "proserve_cli.main", "gateway", "-f", str(resources)]
    command += ["--http", f"127.0.0.1:{port}", "--grpc", f"127.0.0.1:{grpc}", "--admin", f"127.0.0.1:{admin}"]
    with process(command, folder / "gateway.out", port, core) as pid:
        yield Proxy(port, pid, grpc_port=grpc, admin_port=admin)


@contextmanager
def process(command: list[str], log: Path, port: int, core: int) -> Iterator[int]:
    """A process on a core that listens on `port`; its pid."""
    command = ["taskset", "-c", str(core), *command]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as started:
        try:
            deadline_s = time.monotonic() + 60
            while not is_listening(port):
                if started.poll() is not None or time.monotonic() > deadline_s:
                    raise BenchError(f"{' '.join(command)} did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.05)
            # taskset has become the command: the pid is the same.
            yield started.pid
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()


def is_listening(port: int) -> bool:
    """Whether somebody answers there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def resources_text(upstreams: list[int]) -> str:
    """One class, one tenant, one pool of these servers; without any, of engines that are named elsewhere."""
    endpoints = ", ".join(f'{{url: "http://127.0.0.1:{port}"}}' for port in upstreams)
    source, engines = ("", f"endpoints: [{endpoints}]") if upstreams else (', uri: "generated://tiny"', "replicas: 1")
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
  model: {{name: {MODEL}{source}}}
  {engines}
"""
