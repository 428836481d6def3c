"""Gateway tests run on uvloop, as the gateway does: its transports differ from asyncio's own. Those on simulated time,
which uvloop does not have, run on asyncio's."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from grpc_bench import Bench, running_bench


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("looptime") is not None:
        return {"simulated": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running_bench() as made:
        yield made
