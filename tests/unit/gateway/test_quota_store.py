"""Quotas shared by gateways through a real Valkey or Redis server, while it runs, dies, hangs and forgets."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from fake_openai_engine import fake_engine
from proserve_core.admission.shared_count import SharedCount
from proserve_core.objectives import TenantLimits
from proserve_gateway.quotas import store as quota_store
from proserve_gateway.quotas import tenant as quota_tenant
from proserve_gateway.quotas.store import QuotaStoreError, store_address
from proserve_gateway.server import Gateway, GatewayConfig, Listen
from quota_replicas import TEN, Replica, Wall, exchanged, replicas, states
from quota_server import QuotaServer, quota_server
from resource_builders import endpoint_pool, keyed_tenant, parse, priority_class, secret


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QuotaServer]:
    with quota_server(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no slow store."""
    monkeypatch.setattr(quota_tenant, "ANSWER_S", 20.0)
    monkeypatch.setattr(quota_store, "CALL_S", 20.0)


@pytest.mark.parametrize(
    "limits",
    [TEN, TenantLimits(tokens_per_minute=10), TenantLimits(max_in_flight=10)],
    ids=["requests", "tokens", "places"],
)
async def test_two_gateways_share_a_quota_exactly(server: QuotaServer, limits: TenantLimits) -> None:
    async with replicas(server.url) as ((one, two), _):
        assert (one.store.replicas, two.store.replicas) == (2, 2)
        both = await asyncio.gather(one.admitted(limits, times=15), two.admitted(limits, times=15))
        assert len(both[0]) + len(both[1]) == 10
        assert not await one.admitted(limits)
        assert not await two.admitted(limits)


async def test_what_one_gateway_gives_back_the_other_may_use(server: QuotaServer) -> None:
    limits = TenantLimits(tokens_per_minute=100, max_in_flight=1)
    async with replicas(server.url) as ((one, two), wall):
        (ticket,) = await one.admitted(limits, tokens=90)
        assert not await two.admitted(limits, tokens=20)
        ticket.settle(prompt_tokens=10, output_tokens=5, worked=True)
        await one.beat()
        wall.now_s += 1.0
        assert len(await two.admitted(limits, tokens=80)) == 1


async def test_a_killed_store_leaves_each_gateway_its_share_and_comes_back_by_itself(
    server: QuotaServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicas(server.url) as ((one, two), _):
        assert len(await one.admitted(times=3)) == 3
        server.kill()
        assert len(await one.admitted(times=10)) == 2, "five of ten, three of which are used"
        assert len(await two.admitted(times=10)) == 5
        assert states(one, two) == [False, False]
        assert sum(one.store.failures.values()) > 0
        await one.beat()
        assert len([record for record in caplog.records if "out of reach" in record.message]) == 2, "once per gateway"

        server.start()
        for each in (one, two, one, two):
            await each.beat()
        assert states(one, two) == [True, True]
        # Everything is used, and the store that has lost its data was told so.
        assert not await one.admitted()
        assert not await two.admitted()
        fresh = Replica(server.url, Wall())
        assert not await fresh.admitted()
        await fresh.store.close()


async def test_a_hanging_store_holds_no_request_up(server: QuotaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_store, "CALL_S", 40.0)
    async with replicas(server.url) as ((one, two), _):
        monkeypatch.setattr(quota_tenant, "ANSWER_S", 0.05)
        server.hang()
        # Long before the calls under way are given up.
        async with asyncio.timeout(60):
            assert len(await one.admitted(times=10)) == 5
            assert len(await two.admitted(times=10)) == 5
        assert one.store.failures["slow"] > 0
        server.go_on()
        for each in (one, two, one, two):
            await each.beat()
        assert states(one, two) == [True, True]
        assert not await one.admitted()


async def test_a_store_that_lost_its_data_between_two_requests_is_no_open_door(server: QuotaServer) -> None:
    async with replicas(server.url) as ((one, two), _):
        assert len(await one.admitted(times=4)) == 4
        assert len(await two.admitted(times=4)) == 4
        server.kill()
        server.start()
        for each in (one, two, one, two):
            await each.beat()
        admitted = [*await one.admitted(times=5), *await two.admitted(times=5)]
        assert len(admitted) == 2


async def test_a_store_that_lost_its_data_is_told_again_once(server: QuotaServer) -> None:
    async with replicas(server.url) as ((one, two), wall):
        for each in (one, two):
            assert len(await each.admitted(times=4)) == 4
        server.forget()
        assert len(await one.admitted()) == 1
        for _ in range(3):
            for each in (one, two):
                await each.beat()
        assert [(each.store.losses, each.store.replicas) for each in (one, two)] == [(1, 2), (1, 2)]
        wall.now_s += 1.0
        # The call that found it out may be counted twice.
        assert sum([len(await each.admitted(times=10)) for each in (one, two)]) <= 1


async def test_what_is_refused_is_given_back_at_once(server: QuotaServer) -> None:
    limits = TenantLimits(tokens_per_minute=10)
    async with replicas(server.url) as ((one, two), _):
        await two.admitted(limits, tokens=6)
        assert not await one.admitted(limits, tokens=5), "which is found out in the store"
        await exchanged()
        assert len(await two.admitted(limits, tokens=4)) == 1


@pytest.mark.parametrize("decided", [False, True], ids=["before it is decided", "when it is decided"])
async def test_a_client_that_leaves_while_the_store_is_asked_uses_nothing(
    server: QuotaServer, monkeypatch: pytest.MonkeyPatch, decided: bool
) -> None:
    async with replicas(server.url) as ((one, two), _):
        exchange, loop = one.store.exchange, asyncio.get_running_loop()

        async def leaving(counts: Sequence[SharedCount]) -> bool:
            """The client leaves before an answer is here, or before it is told of one."""
            through = await exchange(counts) if decided else True
            loop.call_soon(task.cancel)
            return through if decided else await exchange(counts)

        monkeypatch.setattr(one.store, "exchange", leaving)
        task = asyncio.create_task(one.admitted(times=10))
        await asyncio.wait({task})
        assert task.cancelled()
        monkeypatch.setattr(one.store, "exchange", exchange)
        await exchanged()
        await one.beat()
        assert len(await two.admitted(times=10)) == 10


async def test_a_flood_beyond_the_quota_costs_the_store_no_calls(
    server: QuotaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicas(server.url, 1) as ((one,), _):
        await one.admitted(times=10)
        await one.admitted()
        calls = 0

        async def counted(*_: object) -> bool:
            nonlocal calls
            calls += 1
            return True

        monkeypatch.setattr(one.store, "exchange", counted)
        refused = [not await one.admitted(times=100), calls]
        assert refused == [True, 0]


async def test_a_gateway_that_never_reached_its_store_counts_on_another_one(tmp_path: Path) -> None:
    unreachable = QuotaServer(tmp_path)
    replica = Replica(unreachable.url, Wall())
    assert len(await replica.admitted(times=10)) == 5
    await replica.store.close()


class ExpiringStore:
    """Keeps a counter for as long as it was told when it was made, as `limits` does, on the wall's clock."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self._kept: dict[str, tuple[int, float]] = {}

    async def incr(self, key: str, life_s: int, amount: int) -> int:
        total, end_s = self._kept.get(key, (0, 0.0))
        if end_s <= self._wall.now_s:
            total, end_s = 0, self._wall.now_s + life_s
        self._kept[key] = (total + amount, end_s)
        return total + amount


async def test_a_gateway_that_runs_for_hours_is_charged_no_more_than_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, limits = Wall(), TenantLimits(max_in_flight=10)
    store = ExpiringStore(wall)
    monkeypatch.setattr(quota_store, "RedisStorage", lambda *_, **__: store)
    gateway = Replica("valkey://unused", wall)
    assert len(await gateway.admitted(limits, times=6)) == 6
    for _ in range(3 * 3600):
        await gateway.beat()
        wall.now_s += 1.0
    assert gateway.store.losses == 0
    assert len(await gateway.admitted(limits, times=6)) == 4


@pytest.mark.parametrize("url", ["", "valkey://", "http://host", "memory://", "valkey://host:99999", "host:6379"])
def test_an_address_that_is_none_of_a_store_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(QuotaStoreError, match=r"such as valkey://:PASSWORD@HOST:6379/0"):
        store_address(url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("valkey://host:1/2", "valkey://host:1/2"),
        ("async+valkey://host", "valkey://host"),
        ("redis://:pw@host:6379/0", "valkey://:pw@host:6379/0"),
        ("rediss://host", "valkeys://host"),
    ],
)
def test_valkey_and_redis_are_one(url: str, address: str) -> None:
    assert store_address(url) == address


async def test_two_whole_gateways_share_a_quota_and_show_it(server: QuotaServer) -> None:
    async with fake_engine() as engine:
        resources = parse(
            priority_class("high"),
            keyed_tenant("alice", limits={"requestsPerMinute": 2}),
            secret(alice="sk-alice"),
            endpoint_pool("outside", engine.url),
        )
        any_port = Listen("127.0.0.1", 0)
        config = GatewayConfig(resources=resources, http=any_port, admin=any_port, quota_store=server.url)
        gateways, wall = [Gateway(config), Gateway(config)], Wall()
        for each in gateways:
            assert each.quotas.store is not None
            each.quotas._wall_clock = each.quotas.store._wall_clock = wall
            await each.start()
        try:
            async with httpx.AsyncClient(headers={"authorization": "Bearer sk-alice"}) as client:
                body = {"model": "outside", "messages": []}
                for each in gateways:
                    await until_ready(each)
                statuses = [
                    (await client.post(f"http://127.0.0.1:{each.http.port}/v1/chat/completions", json=body)).status_code
                    for each in (*gateways, *gateways)
                ]
                assert statuses == [200, 200, 429, 429]
                admin = gateways[1].admin
                assert admin is not None
                metrics = (await client.get(f"http://127.0.0.1:{admin.port}/metrics")).text
                assert 'proserve_gateway_quota_used{tenant="alice",quota="requests"} 2.0' in metrics
                assert "proserve_gateway_quota_store_up 1.0" in metrics
        finally:
            for each in gateways:
                await each.stop(0.0)


async def until_ready(gateway: Gateway) -> None:
    async with asyncio.timeout(60):
        while gateway.missing:  # noqa: ASYNC110 readiness is asked for, as a probe does
            await asyncio.sleep(0.005)
