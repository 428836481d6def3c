"""Two operators, one of which acts: who takes over, and when."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api_server import ApiServer
from cluster_objects import install_definitions
from proserve_cli.addresses import free_port
from resource_builders import engine_pool

pytestmark = pytest.mark.timeout(240)
START_LIMIT_S = 60.0
TAKEOVER_S = 30.0


class Operator:
    """An operator's process."""

    def __init__(self, server: ApiServer, folder: Path, name: str, namespace: str) -> None:
        self.name = name
        self.admin = free_port()
        self._log = folder / f"{name}.log"
        command = [
            sys.executable, "-m", "proserve_cli", "operator", "--admin", f"127.0.0.1:{self.admin}",
            "--namespace", namespace, "--lease-namespace", namespace,
        ]  # fmt: skip
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "POD_NAME": name}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        (value,) = (line.split()[1] for line in lines if line.startswith(f"{name} "))
        return float(value)


@contextmanager
def running(*operators: Operator) -> Iterator[None]:
    try:
        yield
    finally:
        for operator in operators:
            operator.process.kill()
            operator.process.wait()


@pytest.fixture
def namespace(api_server: ApiServer, request: pytest.FixtureRequest) -> str:
    install_definitions(api_server)
    name = f"election-{len(request.node.name)}"
    api_server.kubectl("create", "namespace", name)
    return name


def holder(server: ApiServer, namespace: str) -> str | None:
    found = server.get("leases", "-n", namespace)["items"]
    text: str | None = found[0]["spec"].get("holderIdentity") if found else None
    return text


def wait(what: str, holds: Any, limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.2)


def replicas_follow(server: ApiServer, namespace: str, replicas: int) -> None:
    """Somebody acts."""
    server.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(engine_pool("tiny", replicas=replicas)))

    def followed() -> bool:
        found = server.get("deployments", "-n", namespace)["items"]
        return bool(found) and found[0]["spec"]["replicas"] == replicas

    wait(f"{replicas} replicas", followed, START_LIMIT_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_other_replica_takes_over(
    api_server: ApiServer, namespace: str, tmp_path: Path, number: signal.Signals
) -> None:
    first = Operator(api_server, tmp_path, "first", namespace)
    with running(first):
        wait("the first leads", lambda: holder(api_server, namespace) == "first", START_LIMIT_S)
        second = Operator(api_server, tmp_path, "second", namespace)
        with running(second):
            replicas_follow(api_server, namespace, 1)
            assert first.metric("proserve_operator_leader") == 1
            wait("the second is up", lambda: "Traceback" in second.log or _answers(second), START_LIMIT_S)
            assert second.metric("proserve_operator_leader") == 0
            first.process.send_signal(number)
            wait("the second leads", lambda: holder(api_server, namespace) == "second", TAKEOVER_S)
            replicas_follow(api_server, namespace, 2)
            if number is signal.SIGTERM:
                assert first.process.wait(30) == 0, first.log


def _answers(operator: Operator) -> bool:
    try:
        operator.metric("proserve_operator_leader")
    except OSError:
        return False
    return True
