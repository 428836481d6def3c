"""Prompts with one beginning go through a gateway to the engine that has it, under every policy that looks for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fake_openai_engine import fake_engine
from fleet_builders import capacity, prefill_row
from gateway_builders import Gateway, gateway
from proserve_core.routing import make_room

IDLE = capacity(policy="recoverable-gain")
BUSY = capacity(prefill_row(100_000, weight=100, due_s=600), policy="recoverable-gain")
BEGINNING = "Terms of use, which every request repeats. " * 1000


@asynccontextmanager
async def two_engines(policy: str) -> AsyncIterator[Gateway]:
    async with (
        fake_engine("a") as first,
        fake_engine("b") as second,
        gateway(first, second, room=make_room(policy)) as gate,
    ):
        yield gate


def show(gate: Gateway, name: str, *, busy: bool) -> None:
    engine = next(engine for engine in gate.fleet.engines if engine.target.name == name)
    gate.fleet.snapshot_arrived(engine, BUSY if busy else IDLE)


async def ask(gate: Gateway, text: str) -> str:
    """The engine that answered."""
    # Nothing may be in flight, or the other engine would be the idler one.
    async with asyncio.timeout(60):
        while any(engine.view.dispatched for engine in gate.fleet.engines):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    answer = await gate.chat(messages=[{"role": "user", "content": text}])
    assert answer.status_code == 200
    engine: str = answer.headers["x-proserve-engine"]
    return engine


@pytest.mark.parametrize("policy", ["prefix-affinity", "go-full", "min-ahead", "late-gain"])
async def test_prompt_goes_where_its_beginning_was_sent(policy: str) -> None:
    async with two_engines(policy) as gate:
        show(gate, "a", busy=True)
        show(gate, "b", busy=False)
        assert await ask(gate, BEGINNING + "first question") == "b"
        show(gate, "a", busy=False)
        show(gate, "b", busy=False)
        assert await ask(gate, "quite another " * 1000) == "a"
        show(gate, "a", busy=False)
        show(gate, "b", busy=False)
        assert await ask(gate, BEGINNING + "second question") == "b"


@pytest.mark.parametrize("policy", ["round-robin", "least-requests"])
async def test_beginnings_are_not_worked_out_for_policies_that_only_count_requests(policy: str) -> None:
    async with two_engines(policy) as gate:
        assert not gate.fleet.reads_prefixes("tiny")


async def test_beginnings_are_not_worked_out_for_a_single_engine() -> None:
    async with fake_engine() as engine, gateway(engine, room=make_room("prefix-affinity")) as gate:
        assert not gate.fleet.reads_prefixes("tiny")
