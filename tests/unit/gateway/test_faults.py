"""What an accepted request ends with, whatever its engine does: the full answer or an explicit error, and no leak."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fake_openai_engine import FakeEngine, FakeRequest, fake_engine
from faults import BROKEN_STREAMS, NO_ANSWERS, WAITED_FOR, Outcome, cut_at, drip, outcome, recorded
from gateway_builders import Gateway, gateway
from openai_replies import AUTH
from proserve_core.routing import FleetView, RouteDecision, RoutingRequest
from proserve_gateway.fleet.health import EngineHealth
from proserve_gateway.upstream.exchange import UpstreamLimits

BODY = {"model": "tiny", "prompt": "hi", "max_tokens": 2, "temperature": 0}
TEXT = "t0 t1 "


class InOrder:
    """Always the first engine that may be used."""

    name = "in-order"

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        return RouteDecision(engine=fleet.engines[0].name, reason="first", candidates=())


@asynccontextmanager
async def faulty(*, another: bool, limits: UpstreamLimits | None = None) -> AsyncIterator[tuple[Gateway, FakeEngine]]:
    """A gateway that tries a faulty engine first; is there `another`, good one?"""
    async with (
        fake_engine("faulty") as bad,
        fake_engine("good") as good,
        gateway(*([bad, good] if another else [bad]), upstream=limits, router=InOrder) as gate,
    ):
        yield gate, bad


async def ask(gate: Gateway, *, stream: bool) -> Outcome:
    for engine in gate.fleet.engines:
        # Each request meets an engine of which nothing bad is known.
        engine.health = EngineHealth()
        gate.fleet.probe_answered(engine)
        engine.endpoint = engine.target.endpoint(has_capacity=True)
    gate.fleet.invalidate("tiny")
    reply = await gate.client.post("/v1/completions", json={**BODY, "stream": stream}, headers=AUTH)
    return outcome(reply.status_code, reply.headers["content-type"], reply.text)


def limits_for(fault: str) -> UpstreamLimits:
    """Short where time has to pass, and so long that a good engine on a busy machine is quicker."""
    if fault == "endless comments":
        return UpstreamLimits(total_s=1.0)
    return UpstreamLimits(head_s=1.0, idle_s=1.0) if fault in WAITED_FOR else UpstreamLimits()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


async def nothing_left(gate: Gateway, before: int) -> None:
    """No exchange, lease or descriptor stays behind; idle connections to engines may."""
    assert gate.upstream.open_exchanges == 0
    assert [engine.in_flight for engine in gate.fleet.status()] == [0] * len(gate.fleet.engines)
    assert all(not engine.leases for engine in gate.fleet.engines)
    assert gate.sample("requests_in_flight", cls="high", tenant="gold", model="tiny") == 0
    assert descriptors() <= before + 8


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("another", [True, False])
async def test_connection_may_end_at_any_byte(stream: bool, reset: bool, another: bool) -> None:
    request = FakeRequest("/v1/completions", {}, b"")
    options = {"include_usage": True, "continuous_usage_stats": True}
    request.body = {**BODY, "stream": stream, "stream_options": options, "return_token_ids": another}
    length = len(await recorded(request))
    async with faulty(another=another) as (gate, bad):
        bad.behave = cut_at(0, reset=reset)
        await ask(gate, stream=stream)
        before = descriptors()
        # Each byte for the way that keeps what was written, every third for the one that may lose it.
        for position in range(0, length, 3 if reset else 1):
            bad.behave = cut_at(position, reset=reset)
            got = await ask(gate, stream=stream)
            if another:
                assert got == Outcome("full", TEXT), position
            else:
                assert got.kind in ("full", "error"), position
                assert TEXT.startswith(got.text)
                assert got.kind == "error" or got.text == TEXT
        await nothing_left(gate, before)


@pytest.mark.parametrize("fault", BROKEN_STREAMS)
@pytest.mark.parametrize("another", [True, False])
async def test_stream_that_goes_wrong_goes_on_elsewhere_or_ends_with_an_error(fault: str, another: bool) -> None:
    async with faulty(another=another, limits=limits_for(fault)) as (gate, bad):
        before = descriptors()
        bad.behave = BROKEN_STREAMS[fault]
        got = await ask(gate, stream=True)
        if another and fault != "endless comments":
            assert got == Outcome("full", TEXT)
        else:
            assert got.kind == "error"
            assert TEXT.startswith(got.text)
        await nothing_left(gate, before)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", NO_ANSWERS)
@pytest.mark.parametrize("another", [True, False])
async def test_answer_that_is_none_is_replaced_or_an_error(stream: bool, fault: str, another: bool) -> None:
    async with faulty(another=another, limits=limits_for(fault)) as (gate, bad):
        before = descriptors()
        bad.behave = NO_ANSWERS[fault]
        got = await ask(gate, stream=stream)
        assert got == (Outcome("full", TEXT) if another else Outcome("error"))
        await nothing_left(gate, before)


async def test_answer_that_drips_arrives_whole() -> None:
    async with faulty(another=False) as (gate, bad):
        bad.behave = drip
        assert await ask(gate, stream=True) == Outcome("full", TEXT)
