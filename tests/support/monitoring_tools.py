"""Programs of Debian's prometheus package, and a Prometheus that scrapes one address."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proserve_lab.free_port import free_port

START_LIMIT_S = 300.0


def needs(program: str) -> str:
    """Path of a program; skips the test without it, or fails it where everything must run."""
    found = shutil.which(program)
    if found is None:
        message = f"{program} is not installed: apt-get install prometheus"
        if os.environ.get("PROSERVE_REQUIRE_ENGINE") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def prometheus(target: str, folder: Path, *, rules: Path) -> Iterator[httpx.Client]:
    """A running Prometheus that scrapes `target` (HOST:PORT) every second; yields a client of its API."""
    program = needs("prometheus")
    address = f"127.0.0.1:{free_port()}"
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{rules}']\n"
        "scrape_configs:\n"
        f"  - {{job_name: gateway, static_configs: [{{targets: ['{target}'], labels: {{namespace: serving}}}}]}}\n"
    )
    command = [
        program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
        "--log.level=warn",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
            _wait(client, process)
            yield client
    finally:
        process.terminate()
        process.wait(120)


def query(client: httpx.Client, expression: str) -> list[Any]:
    """What an expression of a dashboard has as its answer, with nothing left out by the dashboard's variables."""
    variables = {"$__rate_interval": "2m", "$namespace": ".*", "$class": ".*", "$pool": ".*"}
    for name, value in variables.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    reply = client.get("/api/v1/query", params={"query": expression}).json()
    assert reply["status"] == "success", reply
    found: list[Any] = reply["data"]["result"]
    return found


def _wait(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/-/ready").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"prometheus did not start within {START_LIMIT_S:g} s, see prometheus.log")
