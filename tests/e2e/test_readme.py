"""What the README tells a reader to send is sent, word for word but for the ports, to what it tells them to start."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proserve_core.resources import parse_resources
from running_proserve import RunningProserve

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(language: str, holding: str) -> str:
    [found] = [text for text in blocks(language) if holding in text]
    return found


def here(text: str, up: RunningProserve) -> str:
    """The text with the addresses at which `up` listens."""
    grpc, admin = up.grpc, up.admin.removeprefix("http://")
    for stated, real in (("8000", up.http.removeprefix("http://")), ("8001", grpc), ("9090", admin)):
        text = text.replace(f"127.0.0.1:{stated}", real)
    return text


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProserve]:
    """`proserve up` as in the README, on free ports."""
    command = block("sh", "proserve up").replace("examples/", f"{ROOT}/examples/").split()
    assert command[0].endswith("proserve")
    ports = [word for option in ("--http", "--grpc", "--admin") for word in (option, "127.0.0.1:0")]
    running = RunningProserve([*command[1:], *ports], folder=tmp_path_factory.mktemp("readme"))
    running.wait_ready(300)
    yield running
    assert running.stop() == 0, running.text


def test_curl(up: RunningProserve) -> None:
    if shutil.which("curl") is None:
        pytest.fail("curl is not installed; the README uses it")
    done = subprocess.run(["bash", "-c", here(block("sh", "curl -N"), up)], capture_output=True, text=True, check=True)
    events = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert len(events) > 5
    assert events[-1] == "data: [DONE]"


@pytest.mark.parametrize("client", ["from openai import OpenAI", "import grpc"])
def test_python_clients(up: RunningProserve, client: str) -> None:
    done = subprocess.run([sys.executable, "-c", here(block("python", client), up)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_status_on_the_admin_port(up: RunningProserve) -> None:
    url = re.search(r"\((http://127\.0\.0\.1:9090)\)", README)
    assert url is not None
    assert httpx.get(here(url[1], up), timeout=60).headers["content-type"].startswith("text/html")
    # An engine that has answered late is suspected until it answers again.
    while [engine["state"] for engine in httpx.get(here(url[1], up) + "/status", timeout=60).json()["engines"]] != [
        "ready", "ready"
    ]:  # fmt: skip
        time.sleep(0.05)


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
