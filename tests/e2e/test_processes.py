"""What `proserve up` does with processes: engines that die, signals, and what is left afterwards."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from running_proserve import RunningProserve

ANY_PORTS = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")
HEADERS = {"authorization": "Bearer sk-demo-interactive"}
LONG = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8000, "stream": True}


@contextlib.contextmanager
def open_stream(running: RunningProserve) -> Iterator[Iterator[str]]:
    """A long answer whose first line has come."""
    with (
        httpx.Client(timeout=120) as client,
        client.stream("POST", f"{running.http}/v1/chat/completions", json=LONG, headers=HEADERS) as reply,
    ):
        lines = reply.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines


def engines(running: RunningProserve) -> dict[int, str]:
    return {pid: command for pid, command in running.descendants().items() if " emulate " in command}


def test_an_engine_that_is_killed_ends_its_streams_with_an_error_and_comes_back(own: RunningProserve) -> None:
    killed = engines(own)
    assert len(killed) == 2
    with open_stream(own) as lines:
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        rest = [line.removeprefix("data: ") for line in lines if line]
    assert rest[-1] == "[DONE]"
    assert "error" in json.loads(rest[-2])
    end_s = time.monotonic() + 300
    while True:
        reply = httpx.post(
            f"{own.http}/v1/chat/completions",
            json={**LONG, "max_tokens": 2, "stream": False},
            headers=HEADERS,
            timeout=120,
        )
        if reply.status_code == 200:
            break
        assert reply.status_code in (502, 503)
        assert time.monotonic() < end_s, own.text
        time.sleep(0.2)
    assert "exited with code -9" in own.text
    assert killed.keys().isdisjoint(engines(own))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_even_with_a_stream_open(own: RunningProserve, number: signal.Signals) -> None:
    assert own.descendants()
    with open_stream(own) as lines:
        own.process.send_signal(number)
        ended = [line for line in lines if line]
    # Not cut off in silence: the drain time is over before this answer is.
    assert ended[-1] == "data: [DONE]"
    assert own.process.wait(120) == 0
    assert own.descendants() == {}
    (logs,) = re.findall(r"logs in (\S+)", own.text)
    assert not Path(logs).exists()


def test_a_second_signal_does_not_wait_for_open_requests(own: RunningProserve) -> None:
    with open_stream(own):
        own.process.send_signal(signal.SIGINT)
        with contextlib.suppress(httpx.ConnectError):
            while True:
                httpx.get(f"{own.http}/v1/models", timeout=120)
        assert own.stop() == 0
    assert "1 requests did not end within 0 s and are failed" in own.text
    assert own.descendants() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
def test_engines_end_when_proserve_is_killed(own: RunningProserve) -> None:
    assert len(engines(own)) == 2
    own.process.kill()
    end_s = time.monotonic() + 120
    while own.descendants():
        assert time.monotonic() < end_s, own.descendants()
        time.sleep(0.1)


def test_a_signal_while_engines_start_leaves_nothing(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
    running = RunningProserve(["up", "-f", str(example), "--engine", "emulated", *ANY_PORTS], folder=tmp_path)
    try:
        while not running.descendants():
            time.sleep(0.02)
        assert running.stop() == 0
        assert running.descendants() == {}
    finally:
        running.kill_all()


def test_errors_in_the_files_are_all_listed_and_nothing_is_started(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("apiVersion: proserve.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t}\nspec: {priorityClas: x}\n")
    result = subprocess.run(
        [sys.executable, "-m", "proserve_cli", "up", "-f", str(bad), "-f", str(tmp_path / "bad.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "unknown field" in result.stderr
    assert "priorityClassName" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_gateway_alone_serves_plain_openai_servers(tmp_path: Path) -> None:
    from proserve_lab.free_port import free_port

    ports = [free_port(), free_port()]
    script = Path(__file__).parents[1] / "support" / "plain_openai_server.py"
    servers = [subprocess.Popen([sys.executable, str(script), str(port), "llama"]) for port in ports]
    resources = tmp_path / "endpoints.yaml"
    resources.write_text(
        "apiVersion: proserve.dev/v1alpha1\nkind: PriorityClass\nmetadata: {name: all}\n"
        "spec: {weight: 1, objectives: {timeToFirstToken: 1s, timePerOutputToken: 100ms}}\n---\n"
        "apiVersion: proserve.dev/v1alpha1\nkind: Tenant\nmetadata: {name: everybody}\n"
        "spec: {priorityClassName: all, anonymous: true}\n---\n"
        "apiVersion: proserve.dev/v1alpha1\nkind: EnginePool\nmetadata: {name: llama}\n"
        f"spec: {{model: {{name: llama}}, endpoints: [{{url: 'http://127.0.0.1:{ports[0]}'}},"
        f" {{url: 'http://127.0.0.1:{ports[1]}'}}]}}\n"
    )
    running = RunningProserve(["gateway", "-f", str(resources), *ANY_PORTS], folder=tmp_path)
    try:
        running.wait_ready(300)
        while httpx.get(f"{running.admin}/readyz", timeout=120).status_code != 200:
            time.sleep(0.1)
        body = {"model": "llama", "prompt": "Hello", "max_tokens": 3}
        reply = httpx.post(f"{running.http}/v1/completions", json=body, timeout=120)
        assert reply.status_code == 200
        assert reply.json()["usage"]["completion_tokens"] == 3
        resources.write_text(resources.read_text().replace("weight: 1", "weight: heavy"))
        _wait_for(running, "refused, the last good one stays")
        assert "spec.weight" in running.text
        assert httpx.post(f"{running.http}/v1/completions", json=body, timeout=120).status_code == 200
        resources.write_text(resources.read_text().replace("weight: heavy", "weight: 2").replace("llama}, e", "l3}, e"))
        _wait_for(running, "a new configuration is in force")
        assert httpx.post(f"{running.http}/v1/completions", json=body, timeout=120).status_code == 404
        assert running.stop() == 0
    finally:
        running.kill_all()
        for server in servers:
            server.kill()
            server.wait()


def _wait_for(running: RunningProserve, text: str) -> None:
    end_s = time.monotonic() + 120
    while text not in running.text:
        assert time.monotonic() < end_s, running.text
        time.sleep(0.05)
