"""Bytes of request bodies are bounded over all requests, and no tenant takes all of them."""

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import FREE_KEY, gateway
from openai_replies import AUTH
from proserve_gateway.errors import ApiError
from proserve_gateway.http.api import HttpLimits
from proserve_gateway.requests.body_budget import BodyBudget, HeldBody

BYTES = 100_000


@given(asked=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.booleans()), max_size=40))
def test_bodies_never_take_more_than_there_is_and_leave_room_for_others(asked: list[tuple[str, int, bool]]) -> None:
    budget = BodyBudget(100)
    held: list[tuple[str, int, HeldBody]] = []
    for tenant, size, one_ends in asked:
        total = sum(each for _, each, _ in held)
        own = sum(each for name, each, _ in held if name == tenant)
        try:
            held.append((tenant, size, budget.hold(tenant, size)))
        except ApiError:
            assert own + size > 100 - total
        else:
            assert total + size <= 100
            assert own + size <= 100 - total
        if one_ends and held:
            held.pop(0)[2].__exit__(None, None, None)
    for _, _, each in held:
        each.__exit__(None, None, None)
    budget.hold("d", 50)


async def test_tenant_with_too_much_under_way_is_told_to_come_back_and_others_are_served() -> None:
    begun = asyncio.Event()

    async def hang(request: FakeRequest, reply: Reply) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with fake_engine() as engine, gateway(engine, body_bytes=BYTES) as gate:
        engine.behave = hang
        long = [{"role": "user", "content": "x" * (BYTES * 2 // 5)}]
        first = asyncio.create_task(gate.chat(messages=long))
        await asyncio.wait_for(begun.wait(), 60)
        engine.behave = engine.generate
        refused = await gate.chat(messages=long)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "overloaded"
        assert "tenant gold" in refused.json()["error"]["message"]
        assert gate.sample("requests_total", cls="other", tenant="gold", model="other", code="429") == 1
        assert (await gate.chat()).status_code == 200
        assert (await gate.chat(key=FREE_KEY, messages=long)).status_code == 200
        first.cancel()
        await asyncio.wait_for(engine.client_left.wait(), 60)
        assert (await gate.chat(messages=long)).status_code == 200


async def test_chunked_body_needs_the_room_of_the_longest_only_until_it_is_here() -> None:
    async with fake_engine() as engine, gateway(engine, limits=HttpLimits(body_bytes=40_000), body_bytes=BYTES) as gate:
        begun = asyncio.Event()

        async def hang(request: FakeRequest, reply: Reply) -> None:
            begun.set()
            await asyncio.sleep(60)

        async def chunked() -> AsyncIterator[bytes]:
            yield b'{"model":"tiny","prompt":"hi"}'

        async def ask() -> int:
            return (await gate.client.post("/v1/completions", content=chunked(), headers=AUTH)).status_code

        engine.behave = hang
        asking = []
        for _ in range(3):
            begun.clear()
            asking.append(asyncio.create_task(ask()))
            await asyncio.wait_for(begun.wait(), 60)
        engine.behave = engine.generate
        assert await ask() == 200
        for each in asking:
            each.cancel()
