"""The gateway does what its OpenAPI document says: schemathesis makes requests out of it, right ones and wrong ones."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import GOLD_KEY, gateway
from proserve_gateway.http.openapi import ERRORS, openapi
from proserve_gateway.requests.body import BodyKind

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"
EXAMPLES = 6
"""Requests that are made for each route."""


def served() -> dict[str, Any]:
    """The document with the model and the classes that there are here, so that not every request ends with them."""
    document = openapi()
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"enum": ["tiny"]}
    document["components"]["parameters"]["x-proserve-class"]["schema"] = {"enum": ["high", "low"]}
    for path in document["paths"].values():
        # Aliases are not even read beside our own names.
        for call in path.values():
            call["parameters"] = [each for each in call.get("parameters", ()) if "x-llm-d" not in each.get("$ref", "")]
    return document


schema = schemathesis.openapi.from_dict(served())
schema.config.generation.update(codec="utf-8")
ABOUT_KEYS = ("ignored_auth", "missing_required_header")
"""The key is not in the cases that schemathesis makes; a test of its own is about it."""
ALL_CHECKS: Any = CHECKS.get_by_names([name for name in CHECKS.get_all_names() if name not in ABOUT_KEYS])


async def accept(request: FakeRequest, reply: Reply) -> None:
    """An engine that takes whatever the gateway lets through; streams are the fake engine's own business."""
    await reply.json(200, {"object": "reply", "choices": [{"finish_reason": "stop"}], "status": "completed"})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway in a loop of its own, since schemathesis' clients block."""
    started = threading.Event()
    found: list[tuple[str, Callable[[], object]]] = []

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with fake_engine() as engine, gateway(engine) as gate:
            engine.behave = accept
            found.append((gate.url, lambda: loop.call_soon_threadsafe(stop.set)))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    [(root, end)] = found
    yield root
    end()
    thread.join(20)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_every_route_keeps_to_the_document(case: "schemathesis.Case[Any]", url: str) -> None:
    # Unknown headers are no fault of a request, whatever schemathesis thinks of them: setting all anew says so.
    headers: Any = {**case.headers, "authorization": f"Bearer {GOLD_KEY}"}
    case.headers = headers
    case.call_and_validate(base_url=url, checks=ALL_CHECKS)


@pytest.mark.parametrize("path", [path for path in openapi()["paths"] if path != "/openapi.json"])
def test_every_route_but_the_document_asks_for_a_key(url: str, path: str) -> None:
    method = next(iter(openapi()["paths"][path]))
    for key in ({}, {"authorization": "Bearer nobody"}):
        assert httpx.request(method, f"{url}{path}", headers=key, timeout=60).status_code == 401
    assert httpx.get(f"{url}/openapi.json", timeout=60).json() == openapi()


def test_published_document_is_up_to_date() -> None:
    assert json.loads(DOCUMENT.read_text()) == openapi(), "run make docs"


def test_every_kind_of_body_and_every_error_is_described() -> None:
    document = openapi()
    posts = [path["post"] for path in document["paths"].values() if "post" in path]
    bodies = {each["requestBody"]["content"]["application/json"]["schema"]["$ref"] for each in posts}
    assert len(bodies) == len(BodyKind)
    used = {status for path in document["paths"].values() for call in path.values() for status in call["responses"]}
    assert used == {"200", *map(str, ERRORS)}
