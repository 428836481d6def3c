"""Connections to engines in pods, which have addresses where their certificates have names."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_openai_engine import FakeEngine, fake_engine
from proserve_gateway.fleet.target import EngineTarget, TlsPeer
from proserve_gateway.security.tls import EngineTls, EngineTlsFiles, TlsError
from proserve_gateway.upstream.client import UpstreamClient, request_head
from proserve_gateway.upstream.exchange import FailureKind, UpstreamError
from tls_files import ca, client_pair, engine_files, server_context

FIRST, SECOND = ca("first").decode(), ca("second").decode()


class Bench:
    """An engine whose certificate is for `localhost` and 127.0.0.1, and a gateway's side of connections to it."""

    def __init__(self, engine: FakeEngine, tls: EngineTls | None = None) -> None:
        self._url = f"https://127.0.0.1:{engine.port}"
        # Of engines elsewhere: it counts for none with an authority of its own.
        self.client = UpstreamClient(tls=tls or EngineTls(engine_files("second")))

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


class ShownFiles:
    """What the gateway shows to engines, in files that are renewed."""

    def __init__(self, directory: Path, shows: str) -> None:
        self._certificate, self._key = directory / "tls.crt", directory / "tls.key"
        self.show(shows)
        self.tls = EngineTls(EngineTlsFiles(certificate=self._certificate, key=self._key))

    def show(self, authority: str) -> None:
        certificate, key = client_pair(authority)
        self._certificate.write_bytes(certificate.read_bytes())
        self._key.write_bytes(key.read_bytes())

    def spoil(self) -> None:
        self._certificate.write_text("garbage")


async def test_renewed_certificate_is_shown_to_engines_with_an_authority_of_their_own(tmp_path: Path) -> None:
    files = ShownFiles(tmp_path, "second")
    peer = TlsPeer(server_name="localhost", authority=FIRST)
    async with fake_engine(tls=server_context("first", asks_for="first")) as engine:
        bench = Bench(engine, files.tls)
        with pytest.raises(UpstreamError):
            await bench.ask(peer)
        files.show("first")
        assert files.tls.renew()
        assert await bench.ask(peer) == 200
        bench.client.close()


async def test_certificate_in_force_is_shown_to_new_pools_when_its_files_are_spoiled(tmp_path: Path) -> None:
    files = ShownFiles(tmp_path, "first")
    files.spoil()
    with pytest.raises(TlsError, match=r"tls\.crt"):
        files.tls.renew()
    async with fake_engine(tls=server_context("first", asks_for="first")) as engine:
        bench = Bench(engine, files.tls)
        assert await bench.ask(TlsPeer(server_name="localhost", authority=FIRST)) == 200
        bench.client.close()
