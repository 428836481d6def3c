"""An operator that leads, in the test's own process, on a real API server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from api_server import ApiServer
from cluster_objects import LIMIT_S
from proserve_operator.kube_client import connect
from proserve_operator.operator_run import OperatorRun
from proserve_operator.settings import OperatorSettings


async def until_healthy(run: OperatorRun) -> None:
    """Until it says nothing against itself: on a busy machine an event is late now and then."""
    try:
        async with asyncio.timeout(LIMIT_S):
            while run.unhealthy:  # noqa: ASYNC110 - what is awaited is seen from outside
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"still {run.unhealthy}") from None


@asynccontextmanager
async def acting(
    server: ApiServer,
    namespace: str | None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    watch_through: int | None = None,
    kubeconfig: Path | None = None,
    **settings: Any,
) -> AsyncIterator[OperatorRun]:
    """Looks after one namespace, None: the whole cluster; `settings` of the operator beside that. Its watches, and
    nothing else, go through the port `watch_through` if it is given; `kubeconfig` leads all its requests elsewhere."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig or server.kubeconfig))
    kube = await connect()
    if watch_through is not None:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig_through(watch_through)))
    often = {"resync_s": 2.0, "report_s": 1.0, "status_s": 1.0}
    made = OperatorSettings(namespaces=() if namespace is None else (namespace,), **{**often, **settings})
    run = OperatorRun(kube, made, clock=clock, wall_clock=wall_clock)
    task = asyncio.create_task(run.act())
    try:
        yield run
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait({task})
        await kube.close()
