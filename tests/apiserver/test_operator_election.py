"""Two operators, one of which acts: who takes over, and when."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from api_server import ApiServer
from cluster_objects import LIMIT_S, install_definitions
from operator_process import OperatorProcess, running
from resource_builders import engine_pool


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


def lease_version(server: ApiServer, namespace: str) -> str:
    (lease,) = server.get("leases", "-n", namespace)["items"]
    version: str = lease["metadata"]["resourceVersion"]
    return version


def wait(what: str, holds: Any) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end_s, f"not within {LIMIT_S:g} s: {what}"
        time.sleep(0.2)


def replicas_follow(server: ApiServer, namespace: str, replicas: int) -> None:
    """Somebody acts."""
    server.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(engine_pool("tiny", replicas=replicas)))

    def followed() -> bool:
        found = server.get("deployments", "-n", namespace)["items"]
        return bool(found) and found[0]["spec"]["replicas"] == replicas

    wait(f"{replicas} replicas", followed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_other_replica_takes_over(
    api_server: ApiServer, namespace: str, tmp_path: Path, number: signal.Signals
) -> None:
    first = OperatorProcess(api_server, tmp_path, "first", namespace)
    with running(first):
        wait("the first leads", lambda: holder(api_server, namespace) == "first")
        second = OperatorProcess(api_server, tmp_path, "second", namespace)
        with running(second):
            replicas_follow(api_server, namespace, 1)
            assert first.metric("proserve_operator_leader") == 1
            wait("the second is up", lambda: second.answers)
            assert second.metric("proserve_operator_leader") == 0
            first.process.send_signal(number)
            wait("the second leads", lambda: holder(api_server, namespace) == "second")
            replicas_follow(api_server, namespace, 2)
            if number is signal.SIGTERM:
                assert first.process.wait(120) == 0, first.log


def test_lease_is_given_back_at_a_good_end(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    only = OperatorProcess(api_server, tmp_path, "only", namespace, "--log-format=json")
    with running(only):
        wait("it leads", lambda: holder(api_server, namespace) == "only")
        first_version = lease_version(api_server, namespace)
        wait("it renews", lambda: lease_version(api_server, namespace) != first_version)
        only.process.send_signal(signal.SIGTERM)
        assert only.process.wait(120) == 0, only.log
        assert holder(api_server, namespace) is None
        assert "not given back" not in only.log
        assert "only leads" in [json.loads(line)["message"] for line in only.log.splitlines()]
