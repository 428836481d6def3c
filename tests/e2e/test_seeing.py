"""What people see of a running `proserve up`: its commands, asked as they would."""

import json
import re
import subprocess
import sys

import httpx

from running_proserve import RunningProserve

KEY = {"authorization": "Bearer sk-demo-interactive"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


def proserve(running: RunningProserve, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proserve_cli", *arguments, "--admin", running.admin.removeprefix("http://")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_request_is_explained_by_gateway_and_engine(shared: RunningProserve) -> None:
    reply = httpx.post(f"{shared.http}/v1/chat/completions", json=CHAT, headers=KEY, timeout=120)
    request_id, engine = reply.headers["x-proserve-request-id"], reply.headers["x-proserve-engine"]
    told = proserve(shared, "explain", request_id)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"request {request_id} of tenant chat, class interactive")
    assert f"sent to {engine}" in told.stdout
    assert re.search(rf"^\S*{request_id}\S* on {engine}$", told.stdout, re.MULTILINE)
    # How much of it depends on what else the machine does.
    assert re.search(r"gain: \d+ earned of 32", told.stdout)


def test_status_and_gain_know_the_configured_classes(shared: RunningProserve) -> None:
    status = json.loads(proserve(shared, "status", "--format", "json").stdout)
    gain = json.loads(proserve(shared, "gain", "--format", "json").stdout)
    assert status["ready"] is True
    assert set(gain["windows"]["all"]) == {"interactive", "batch"}


def test_request_that_nobody_knows_fails_and_says_what_may_have_become_of_it(shared: RunningProserve) -> None:
    told = proserve(shared, "explain", "nobody")
    assert told.returncode == 1
    assert "refused before it was routed, went through another gateway" in told.stderr
