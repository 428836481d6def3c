"""The gateway asks engines about requests for people who don't know the engines' key."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine_builders import decoding
from proserve_core.batching.explain import DecisionLog
from proserve_core.batching.explain.reply import ExplainReply
from proserve_core.routing import make_room
from proserve_engine.access import EngineAccess, EngineKeys
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.capacity_server import CapacityApp, CapacityServer
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.engine_decisions import EngineDecisions, engine_decisions
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.upstream.client import UpstreamClient

KEY = "key-of-this-engine"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[CapacityServer]:
    """Knows of request abc, and asks for its key."""
    keys = tmp_path / "engine.key"
    keys.write_text(KEY)
    log = DecisionLog()
    log.lost_blocks(decoding("cmpl-abc-0-00000001"), now_s=1.25)
    server = CapacityServer(EngineAccess(CapacityApp(CapacityBoard(), log), EngineKeys(keys)), host="127.0.0.1", port=0)
    server.start()
    yield server
    server.stop()


def asking(port: int) -> tuple[EngineDecisions, UpstreamClient]:
    fleet = Fleet(make_room=lambda _: make_room("round-robin"), clock=asyncio.get_running_loop().time)
    url = f"http://127.0.0.1:{port}"
    fleet.set_targets(
        [
            EngineTarget(name="a/0", pool="a", base_url=url, capacity_url=url, api_key=KEY),
            EngineTarget(name="plain", pool="a", base_url=url),
        ]
    )
    client = UpstreamClient()
    return engine_decisions(fleet, client), client


async def test_engine_answers_through_the_gateway(engine: CapacityServer) -> None:
    ask, client = asking(engine.port)
    status, body = await ask("a/0", "abc")
    assert status == 200
    assert [each.id for each in msgspec.json.decode(body, type=ExplainReply).requests] == ["cmpl-abc-0-00000001"]
    assert (await ask("a/0", "../drain"))[0] == 404
    client.close()


async def test_engines_that_do_not_exist_or_do_not_answer_are_named(engine: CapacityServer) -> None:
    ask, client = asking(engine.port)
    for name in ("nobody", "plain"):
        with pytest.raises(ApiError, match=f"there is no engine '{name}' with a capacity server") as missing:
            await ask(name, "abc")
        assert missing.value.status == 404
    engine.stop()
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match="engine a/0 does not say: no connection") as gone:
        await ask("a/0", "abc")
    assert gone.value.status == 502
    client.close()
