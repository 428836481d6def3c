"""A namespace of a test's own on a real API server, and waiting for what somebody does there."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api_server import ApiServer
from proserve_core.resources.crds import definitions
from resource_builders import Data

DEFINITIONS = Path(__file__).parents[2] / "charts" / "proserve-crds" / "templates"
LIMIT_S = 300.0
"""Generous: how long something takes is not what these tests are about."""


def install_definitions(server: ApiServer) -> None:
    """The custom resources, served."""
    server.kubectl("apply", "--server-side", "-f", str(DEFINITIONS))
    names = [crd["metadata"]["name"] for crd in definitions().values()]
    # Not `kubectl wait` alone, which fails on one that has no conditions yet.
    for name in names:
        end_s = time.monotonic() + LIMIT_S
        while not server.get("crd", name).get("status", {}).get("conditions"):
            assert time.monotonic() < end_s, f"{name} has no conditions"
            time.sleep(0.1)
    server.kubectl("wait", "--for=condition=Established", f"--timeout={LIMIT_S:g}s", "crd", *names)


class Namespace:
    """Objects of one namespace, through kubectl."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        server.kubectl("create", "namespace", self.name)

    async def apply(self, *documents: Data) -> None:
        """Server-side apply, as a user."""
        text = "\n---\n".join(json.dumps(each) for each in documents)
        await self._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    async def kubectl(self, *arguments: str) -> str:
        return await self._kubectl(*arguments)

    async def get(self, kind: str, name: str) -> Any:
        """The object; None if there is none."""
        text = await self._kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text else None

    async def until(self, kind: str, name: str, holds: Callable[[Any], object], *, limit_s: float = LIMIT_S) -> Any:
        """The object as soon as `holds` of it; fails with its last state."""
        body: Any = None
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    body = await self.get(kind, name)
                    if holds(body):
                        return body
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{kind} {name} is still {json.dumps(body, indent=1)}") from None

    async def _kubectl(self, *arguments: str, stdin: str = "") -> str:
        return await asyncio.to_thread(self.server.kubectl, "-n", self.name, *arguments, stdin=stdin)


def condition(body: Any, name: str) -> tuple[str, str] | None:
    """Status and reason of a condition; None before it is there."""
    if body is None:
        return None
    found = [each for each in body.get("status", {}).get("conditions", ()) if each["type"] == name]
    return (found[0]["status"], found[0]["reason"]) if found else None


def message(body: Any, name: str) -> str:
    """Text of a condition."""
    (text,) = (each["message"] for each in body["status"]["conditions"] if each["type"] == name)
    return str(text)
