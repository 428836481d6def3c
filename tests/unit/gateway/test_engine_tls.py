"""Connections to engines in pods, which have addresses where their certificates have names."""

from collections.abc import AsyncIterator

import pytest

from fake_openai_engine import FakeEngine, fake_engine
from proserve_gateway.fleet.target import EngineTarget, TlsPeer
from proserve_gateway.security.tls import EngineTls
from proserve_gateway.upstream.client import UpstreamClient, request_head
from proserve_gateway.upstream.exchange import FailureKind, UpstreamError
from tls_files import ca, engine_files, server_context

FIRST, SECOND = ca("first").decode(), ca("second").decode()


class Bench:
    """An engine whose certificate is for `localhost` and 127.0.0.1, and a gateway's side of connections to it."""

    def __init__(self, engine: FakeEngine) -> None:
        self._url = f"https://127.0.0.1:{engine.port}"
        # Of engines elsewhere: it counts for none with an authority of its own.
        self.client = UpstreamClient(tls=EngineTls(engine_files("second")))

    async def ask(self, peer: TlsPeer) -> int:
        """Status of an answer."""
        target = EngineTarget(name="a", pool="tiny", base_url=self._url, peer=peer)
        endpoint = target.endpoint(has_capacity=False)
        head = request_head(endpoint, "POST", "/v1/completions")
        exchange = await self.client.request(endpoint, head, lambda: b'{"model": "tiny"}')
        await exchange.read_all(10_000)
        return exchange.status


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with fake_engine(tls=server_context("first")) as engine:
        made = Bench(engine)
        yield made
        made.client.close()


@pytest.mark.parametrize("authority", [FIRST, SECOND + FIRST])
async def test_engine_is_reached_by_the_name_and_the_authority_of_its_pool(bench: Bench, authority: str) -> None:
    peer = TlsPeer(server_name="localhost", authority=authority)
    assert [await bench.ask(peer) for _ in range(2)] == [200, 200]
    assert bench.client.connections == 1


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (TlsPeer(server_name="engine-tiny.default.svc", authority=FIRST), "certificate is not valid for"),
        (TlsPeer(server_name="localhost", authority=SECOND), "certificate verify failed"),
        (TlsPeer(server_name="localhost"), "who signs the engine's certificate is not known"),
    ],
)
async def test_engine_with_another_certificate_is_not_talked_to(bench: Bench, peer: TlsPeer, said: str) -> None:
    for _ in range(2):
        with pytest.raises(UpstreamError, match=said) as caught:
            await bench.ask(peer)
        assert caught.value.kind is FailureKind.CONNECT


async def test_kept_connection_is_not_used_for_another_pool_at_the_same_address(bench: Bench) -> None:
    """An address that was one pool's pod is another's a moment later."""
    await bench.ask(TlsPeer(server_name="localhost", authority=FIRST))
    with pytest.raises(UpstreamError, match="certificate is not valid for"):
        await bench.ask(TlsPeer(server_name="engine-other.default.svc", authority=FIRST))
