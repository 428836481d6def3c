"""What the README tells a reader to send is sent, word for word but for the ports, to what it tells them to start."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proserve_core.resources import parse_resources

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(language: str, holding: str) -> str:
    [found] = [text for text in blocks(language) if holding in text]
    return found


class Started:
    """`proserve up` as in the README, on free ports."""

    def __init__(self) -> None:
        self.ports = {"8000": free_port(), "8001": free_port(), "9090": free_port()}

    def here(self, text: str) -> str:
        for port, free in self.ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    up = Started()
    command = block("sh", "proserve up").split()
    assert command[0].endswith("proserve")
    addresses = [
        option
        for name, port in (("--http", "8000"), ("--grpc", "8001"), ("--admin", "9090"))
        for option in (name, f"127.0.0.1:{up.ports[port]}")
    ]
    log = tmp_path_factory.mktemp("readme") / "up.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, "-m", "proserve_cli", *command[1:], *addresses], cwd=ROOT, stdout=out, stderr=out
        ) as process,
    ):
        try:
            wait_ready(up, process, log)
            yield up
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()


def wait_ready(up: Started, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(up.here("http://127.0.0.1:9090/readyz"), timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_curl(started: Started) -> None:
    if shutil.which("curl") is None:
        pytest.fail("curl is not installed; the README uses it")
    done = subprocess.run(
        ["bash", "-c", started.here(block("sh", "curl -N"))], capture_output=True, text=True, timeout=60, check=True
    )
    events = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert len(events) > 5
    assert events[-1] == "data: [DONE]"


@pytest.mark.parametrize("client", ["from openai import OpenAI", "import grpc"])
def test_python_clients(started: Started, client: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", started.here(block("python", client))], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_status_on_the_admin_port(started: Started) -> None:
    url = re.search(r"`curl (http://127\.0\.0\.1:9090/status)`", README)
    assert url is not None
    status = httpx.get(started.here(url[1])).json()
    assert [engine["state"] for engine in status["engines"]] == ["ready", "ready"]


def test_grpcurl_request_is_valid() -> None:
    """grpcurl is no Python package; its message is checked against the .proto that reflection serves."""
    from google.protobuf import json_format

    from proserve_gateway.rpc import inference_pb2

    message = re.search(r"-d '(\{.*\})'", block("sh", "grpcurl"))
    assert message is not None
    request = json_format.Parse(message[1], inference_pb2.GenerateRequest())
    assert request.model == "tiny"
    service = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
    assert f"{service.full_name}/GenerateStream" in block("sh", "grpcurl")


def test_resources_are_valid() -> None:
    resources = parse_resources({"README.md": block("yaml", "PriorityClass")}, require_pools=True, require_tenants=True)
    assert resources.without_effect == ()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert links
    assert missing == []
