"""The dashboards: every panel of the gateways' shows something of one that has served, lost and refused requests."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitoring_tools import prometheus, query
from running_proserve import RunningProserve

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/proserve"
DASHBOARDS = sorted(path.name for path in (CHART / "dashboards").glob("*.json"))


def dashboard(name: str) -> Any:
    return json.loads((CHART / "dashboards" / name).read_text())


DASHBOARD = dashboard("gateway.json")
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ANY_PORTS = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")
LIMIT_S = 120.0
"""For what was scraped last."""
HIGH, LOW = {"authorization": "Bearer sk-demo-interactive"}, {"authorization": "Bearer sk-demo-batch"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
CHANGES = {
    "spec:\n  priorityClassName: interactive\n": "  limits: {maxInFlight: 10, requestsPerMinute: 200}\n",
    "spec:\n  weight: 4\n": "  headroom: {percent: 40}\n",
    "  replicas: 2\n": "  routing: {policy: late-gain}\n",
}
"""What has series only where it is configured: lines of the example, and what is added after them."""


@pytest.mark.parametrize("name", DASHBOARDS)
def test_ids_are_unique_and_panels_say_what_they_show(name: str) -> None:
    panels = dashboard(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in shown)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap_and_fill_the_width(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard(name)["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}"
                assert x < 24
                taken[x, y] = panel["title"]


async def stream(
    client: httpx.AsyncClient,
    headers: dict[str, str],
    max_tokens: int,
    *,
    leave_after: int = 0,
    going: asyncio.Semaphore | None = None,
) -> None:
    """`going` is released when something has come."""
    body = {**CHAT, "max_tokens": max_tokens}
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply:
        events = 0
        async for _ in reply.aiter_lines():
            if going is not None and not events:
                going.release()
            events += 1
            if events == leave_after:
                return


async def traffic(running: RunningProserve) -> None:
    """Answers, clients that leave, an engine that dies in the middle of streams, requests over the quota."""
    engines = {pid for pid, command in running.descendants().items() if " emulate " in command}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=running.http, timeout=300, limits=limits) as client:
        for _ in range(3):
            await asyncio.gather(*(stream(client, headers, 20) for headers in (HIGH, LOW) for _ in range(4)))
            await asyncio.sleep(1)
        await stream(client, HIGH, 2000, leave_after=9)
        going = asyncio.Semaphore(0)
        streams = [asyncio.create_task(stream(client, LOW, 1500, going=going)) for _ in range(12)]
        for _ in streams:
            await going.acquire()
        os.kill(min(engines), signal.SIGKILL)
        await asyncio.gather(*streams, return_exceptions=True)
        await asyncio.gather(*(stream(client, HIGH, 200) for _ in range(60)), return_exceptions=True)
        await asyncio.sleep(2)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus, after a while of scraping."""
    folder = tmp_path_factory.mktemp("prometheus")
    resources = (ROOT / "examples/quickstart.yaml").read_text()
    for place, added in CHANGES.items():
        assert place in resources
        resources = resources.replace(place, place + added)
    file = folder / "resources.yaml"
    file.write_text(resources)
    running = RunningProserve(["up", "-f", str(file), "--engine", "emulated", *ANY_PORTS], folder=folder)
    try:
        running.wait_ready(300)
        target = running.admin.removeprefix("http://")
        with prometheus(target, folder, rules=CHART / "rules/gateway.yaml") as client:
            # A counter that is new has no rate until it was scraped twice.
            time.sleep(2)
            asyncio.run(traffic(running))
            asyncio.run(traffic(running))
            yield client
    finally:
        running.end()


def test_every_query_of_every_panel_has_an_answer(scraped: httpx.Client) -> None:
    left = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    end_s = time.monotonic() + LIMIT_S
    while left := [(title, expression) for title, expression in left if not query(scraped, expression)]:
        assert time.monotonic() < end_s, left
        time.sleep(1)


def test_variables_are_filled_from_the_gateways_series(scraped: httpx.Client) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            values = scraped.get(f"/api/v1/label/{label}/values", params={"match[]": metric}).json()["data"]
            assert values, variable["name"]


def test_rules_are_evaluated_without_errors_on_what_a_gateway_exposes(scraped: httpx.Client) -> None:
    groups = scraped.get("/api/v1/rules").json()["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert len(health) == 18
    assert set(health.values()) == {"ok"}
    assert query(scraped, "proserve:gain_ratio:rate5m")
