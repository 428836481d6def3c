"""Clients that users have, unmodified, against a running gateway: LangChain, the official Node package, curl."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from running_proserve import RunningProserve

KEY = "sk-demo-interactive"
ORIGIN = "origin: http://elsewhere.example"
NODE = Path(__file__).parent / "node"


def missing(program: str) -> None:
    """Skip, or fail where everything must be there."""
    message = f"{program} is not installed: it runs a client that users have"
    if os.environ.get("PROSERVE_REQUIRE_ENGINE"):
        pytest.fail(message)
    pytest.skip(message)


async def test_langchain_invokes_streams_and_counts(shared: RunningProserve) -> None:
    def model(stream_usage: bool) -> ChatOpenAI:
        return ChatOpenAI(
            base_url=f"{shared.http}/v1", api_key=SecretStr(KEY), model="tiny", max_retries=0, stream_usage=stream_usage
        )

    asked = [HumanMessage("Hello")]
    whole = await model(True).ainvoke(asked, max_tokens=6)
    chunks = [chunk async for chunk in model(True).astream(asked, max_tokens=6)]
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content
    usage: Any = whole.usage_metadata
    assert usage["output_tokens"] == 6
    assert [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata] == [6]
    assert not any(chunk.usage_metadata for chunk in [c async for c in model(False).astream(asked, max_tokens=2)])


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node script with the packages of the lock file."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            missing(program)
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "client.mjs"):
        shutil.copy(NODE / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "client.mjs"


def test_node_client_does_what_the_python_client_does(shared: RunningProserve, node_client: Path) -> None:
    command = ["node", str(node_client), f"{shared.http}/v1", KEY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["streamed"] == said["whole"] != ""
    assert said["usage"]["completion_tokens"] == 6
    assert said["models"] == ["tiny"]
    assert said["error"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}


def test_curl_sees_every_event_and_headers_that_name_the_request(shared: RunningProserve) -> None:
    if shutil.which("curl") is None:
        missing("curl")
    body = json.dumps({"model": "tiny", "prompt": "Hello", "max_tokens": 4, "stream": True})
    headers = [f"authorization: Bearer {KEY}", "x-request-id: mine", "content-type: application/json", ORIGIN]
    curl = ["curl", "-sSiN", f"{shared.http}/v1/completions"]
    command = [*curl, *(word for header in headers for word in ("-H", header)), "-d", body]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    head, _, events = done.stdout.partition("\n\n")
    assert events.rstrip().endswith("data: [DONE]")
    assert "x-request-id: mine" in head
    assert "access-control-" not in head.lower()
    preflight = [*curl, "-X", "OPTIONS", "-H", ORIGIN, "-H", "access-control-request-method: POST"]
    refused = subprocess.run(preflight, capture_output=True, text=True, check=True).stdout
    assert refused.startswith("HTTP/1.1 405 ")
    assert "access-control-" not in refused.lower()
