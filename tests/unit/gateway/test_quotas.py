"""A tenant's quotas at the door of one gateway: what is refused, how it is said, and what each end costs."""

import asyncio
from typing import Any

import openai
import pytest

from fake_openai_engine import PROMPT_IDS, FakeRequest, Reply, fake_engine
from gateway_builders import FREE_KEY, GOLD_KEY, Gateway, gateway
from proserve_core.objectives import TenantLimits
from proserve_gateway.quotas.quotas import Quotas

ONE = TenantLimits(requests_per_minute=1)
TOKENS = TenantLimits(tokens_per_minute=1000)


class Wall:
    """A clock on the wall that stands still."""

    def __init__(self) -> None:
        self.now_s = 1_000_020.0

    def __call__(self) -> float:
        return self.now_s


def used(gate: Gateway, quota: str) -> float:
    return gate.sample("quota_used", tenant="gold", quota=quota)


async def test_beyond_the_limit_clients_are_told_when_to_come_back() -> None:
    wall = Wall()
    async with fake_engine() as engine, gateway(engine, tenant_limits=ONE, quotas=Quotas(wall_clock=wall)) as gate:
        assert (await gate.chat()).status_code == 200
        refused = await gate.chat()
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
        assert "tenant gold reached its limit on requests per minute: limit 1, used 1, requested 1" in error["message"]
        # 1,000,020 s is 0 s into a minute: free again when the next one is over.
        assert refused.headers["retry-after"] == "120"
        assert refused.headers["retry-after-ms"] == "120000"
        assert refused.headers["x-ratelimit-limit-requests"] == "1"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-reset-requests"] == "2m0s"
        wall.now_s += 120
        assert (await gate.chat()).status_code == 200
        assert len(engine.requests) == 2
        assert gate.sample("quota_refusals_total", tenant="gold", quota="requests") == 1
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="429") == 1


async def test_a_refusal_by_quota_is_no_lost_gain() -> None:
    async with fake_engine() as engine, gateway(engine, tenant_limits=ONE) as gate:
        await gate.chat()
        earnable = gate.accounting.ledger.total().earnable
        await gate.chat()
        assert gate.accounting.ledger.total().earnable == earnable


async def test_other_tenants_are_not_touched_and_see_no_headers() -> None:
    async with fake_engine() as engine, gateway(engine, tenant_limits=ONE) as gate:
        await gate.chat()
        assert (await gate.chat()).status_code == 429
        for _ in range(3):
            reply = await gate.chat(key=FREE_KEY)
            assert reply.status_code == 200
            assert not any(name.startswith("x-ratelimit") for name in reply.headers)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_costs_the_tokens_that_the_engine_counted(stream: bool) -> None:
    async with fake_engine() as engine, gateway(engine, tenant_limits=TOKENS) as gate:
        reply = await gate.chat(max_tokens=4, stream=stream)
        assert reply.status_code == 200
        assert reply.headers["x-ratelimit-limit-tokens"] == "1000"
        assert 0 < int(reply.headers["x-ratelimit-remaining-tokens"]) < 1000
        assert used(gate, "tokens") == len(PROMPT_IDS) + 4


async def test_running_requests_hold_their_estimate() -> None:
    wall = Wall()
    limits = TenantLimits(tokens_per_minute=120)
    async with fake_engine() as engine, gateway(engine, tenant_limits=limits, quotas=Quotas(wall_clock=wall)) as gate:
        engine.token_gate = asyncio.Event()
        first = asyncio.create_task(gate.chat(max_tokens=100, stream=True))
        await gate.tokens(1)
        assert used(gate, "tokens") > 100
        assert (await gate.chat(max_tokens=100)).status_code == 429
        engine.token_gate.set()
        await first
        assert (await gate.chat(max_tokens=1)).status_code == 200


async def test_requests_in_flight_are_limited_until_they_end() -> None:
    async with fake_engine() as engine, gateway(engine, tenant_limits=TenantLimits(max_in_flight=1)) as gate:
        engine.token_gate = asyncio.Event()
        first = asyncio.create_task(gate.chat(max_tokens=4, stream=True))
        await gate.tokens(1)
        refused = await gate.chat()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert used(gate, "in_flight") == 1
        engine.token_gate.set()
        await first
        assert used(gate, "in_flight") == 0
        assert (await gate.chat()).status_code == 200


async def never_answer(request: FakeRequest, reply: Reply) -> None:
    await asyncio.Event().wait()


async def test_a_client_that_leaves_gives_its_place_back_and_pays_for_its_prompt() -> None:
    limits = TenantLimits(max_in_flight=1, tokens_per_minute=1000)
    async with fake_engine() as engine, gateway(engine, tenant_limits=limits) as gate:
        engine.behave = never_answer
        call = asyncio.create_task(gate.chat())
        await engine.asked.wait()
        call.cancel()
        async with asyncio.timeout(60):
            await engine.client_left.wait()
            while used(gate, "in_flight"):  # noqa: ASYNC110 the gateway hears of it a moment later
                await asyncio.sleep(0.005)
        assert 0 < used(gate, "tokens") < 50


async def test_an_engines_failure_costs_the_tenant_a_request_but_no_tokens() -> None:
    async def fail(request: FakeRequest, reply: Reply) -> None:
        await reply.json(500, {"error": "broken"})

    limits = TenantLimits(requests_per_minute=5, tokens_per_minute=1000, max_in_flight=1)
    async with fake_engine() as engine, gateway(engine, tenant_limits=limits) as gate:
        engine.behave = fail
        assert (await gate.chat()).status_code == 502
        assert [used(gate, quota) for quota in ("requests", "tokens", "in_flight")] == [1, 0, 0]


async def test_a_prompt_that_can_never_fit_is_refused_for_good() -> None:
    async with fake_engine() as engine, gateway(engine, tenant_limits=TenantLimits(tokens_per_minute=10)) as gate:
        refused = await gate.chat(messages=[{"role": "user", "content": "word " * 100}])
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "request_exceeds_quota"
        assert "it never fits" in refused.json()["error"]["message"]
        assert "retry-after" not in refused.headers
        assert not engine.requests
        assert used(gate, "in_flight") == used(gate, "tokens") == 0
        assert gate.sample("quota_refusals_total", tenant="gold", quota="tokens") == 1


async def test_a_prompt_that_only_seems_too_long_is_admitted_and_charged_as_the_engine_counts_it() -> None:
    async with fake_engine() as engine, gateway(engine, tenant_limits=TenantLimits(tokens_per_minute=100)) as gate:
        assert (await gate.chat(messages=[{"role": "user", "content": "word " * 150}])).status_code == 200
        assert used(gate, "tokens") == 7 + 4


async def test_openais_client_reads_the_limit_and_the_wait() -> None:
    async with fake_engine() as engine, gateway(engine, tenant_limits=ONE) as gate:
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=GOLD_KEY, max_retries=0)
        messages: Any = [{"role": "user", "content": "hi"}]
        raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=messages)
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="tiny", messages=messages)
        assert caught.value.code == "rate_limit_exceeded"
        assert float(caught.value.response.headers["retry-after-ms"]) > 0


async def test_embeddings_count_their_prompt() -> None:
    async def embed(request: FakeRequest, reply: Reply) -> None:
        await reply.json(200, {"data": [], "usage": {"prompt_tokens": 30, "total_tokens": 30}})

    async with fake_engine() as engine, gateway(engine, tenant_limits=TOKENS) as gate:
        engine.behave = embed
        body = {"model": "tiny", "input": "hello"}
        reply = await gate.client.post("/v1/embeddings", json=body, headers={"authorization": f"Bearer {GOLD_KEY}"})
        assert reply.status_code == 200
        assert used(gate, "tokens") == 30


async def test_embeddings_that_run_together_hold_their_prompts_against_the_quota() -> None:
    async def embed(request: FakeRequest, reply: Reply) -> None:
        await everybody_asked.wait()
        await reply.json(200, {"data": [], "usage": {"prompt_tokens": 5000, "total_tokens": 5000}})

    everybody_asked = asyncio.Event()
    limits = TenantLimits(tokens_per_minute=10_000)
    async with fake_engine() as engine, gateway(engine, tenant_limits=limits) as gate:
        engine.behave = embed

        async def ask(tokens: int) -> int:
            body = {"model": "tiny", "input": "x" * 4 * tokens}
            auth = {"authorization": f"Bearer {GOLD_KEY}"}
            return int((await gate.client.post("/v1/embeddings", json=body, headers=auth)).status_code)

        asking = [asyncio.create_task(ask(4900)) for _ in range(6)]
        left = set(asking)
        while len(left) > 2:
            _done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        everybody_asked.set()
        assert sorted([await task for task in asking]) == [200, 200, 429, 429, 429, 429]
        assert await ask(100_000) == 400


async def test_no_store_is_asked_and_nothing_kept_where_no_limit_is_set() -> None:
    quotas = Quotas()
    async with fake_engine() as engine, gateway(engine, quotas=quotas) as gate:
        assert (await gate.chat()).status_code == 200
        assert list(quotas.tenants) == []
