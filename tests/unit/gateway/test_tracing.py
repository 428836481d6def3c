"""Spans of requests, exported to a collector on loopback."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fake_openai_engine import FakeEngine, FakeRequest, Reply, fake_engine
from gateway_builders import Gateway, gateway
from otlp_receiver import Receiver, otlp_receiver, values
from proserve_core.routing import FleetView, RouteDecision, RoutingRequest
from proserve_gateway.seeing.trace_context import TraceContext, trace_context
from proserve_gateway.seeing.tracing import Tracing

PARENT = "00-0123456789abcdef0123456789abcdef-00f067aa0ba902b7-01"
TRACE_ID = bytes.fromhex(PARENT[3:35])


class Predicting:
    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        return RouteDecision(engine="a", reason="the first", expected_ttft_s=0.25, expected_gain=7.0)


@asynccontextmanager
async def traced(
    monkeypatch: pytest.MonkeyPatch, *engines: FakeEngine, **environment: str
) -> AsyncIterator[tuple[Gateway, Receiver, Tracing]]:
    with otlp_receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        async with gateway(*engines, is_vllm=True, router=Predicting) as running:
            tracing = Tracing(running.decisions)
            try:
                yield running, received, tracing
            finally:
                tracing.close()


async def spans(received: Receiver, tracing: Tracing) -> list[Any]:
    await asyncio.to_thread(tracing.close)
    return received.spans


async def test_span_says_what_was_asked_expected_and_got(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, traced(monkeypatch, a, b) as (running, received, tracing):
        reply = await running.chat(max_tokens=3, stream=True)
        (span,) = await spans(received, tracing)
    found = values(span.attributes)
    assert span.name == "chat tiny"
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.request.model"] == "tiny"
    assert found["gen_ai.usage.output_tokens"] == 3
    assert found["gen_ai.usage.input_tokens"] == 7
    assert found["http.response.status_code"] == 200
    assert found["proserve.request_id"] == reply.headers["x-proserve-request-id"]
    assert (found["proserve.class"], found["proserve.tenant"], found["proserve.pool"]) == ("high", "gold", "tiny")
    assert (found["proserve.engine"], found["proserve.ttft.expected_s"]) == ("a", 0.25)
    assert (found["proserve.gain.expected"], found["proserve.gain.earned"]) == (7.0, 12.0)
    assert 0 < found["proserve.ttft_s"] < 10
    assert [event.name for event in span.events] == ["engine chosen", "first token"]
    assert span.start_time_unix_nano < span.events[0].time_unix_nano <= span.end_time_unix_nano
    assert received.services == {"proserve-gateway"}


async def test_engine_is_a_child_of_the_span_and_the_span_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_engine("a") as engine, traced(monkeypatch, engine) as (running, received, tracing):
        await running.chat(headers={"traceparent": PARENT, "tracestate": "vendor=1"})
        (span,) = await spans(received, tracing)
        (asked,) = engine.requests
    assert span.trace_id == TRACE_ID
    assert span.parent_span_id == bytes.fromhex("00f067aa0ba902b7")
    assert asked.headers["traceparent"] == f"00-{TRACE_ID.hex()}-{span.span_id.hex()}-01"
    assert asked.headers["tracestate"] == "vendor=1"


async def test_client_that_does_not_sample_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_engine("a") as engine, traced(monkeypatch, engine) as (running, received, tracing):
        await running.chat(headers={"traceparent": PARENT.removesuffix("01") + "00"})
        assert await spans(received, tracing) == []
        assert engine.requests[0].headers["traceparent"].endswith("-00")
        assert engine.requests[0].headers["traceparent"].startswith(PARENT[:36])


async def test_both_engines_of_a_continued_stream_are_events(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, traced(monkeypatch, a, b) as (running, received, tracing):
        a.break_before = 2
        await running.chat(max_tokens=4, stream=True)
        (span,) = await spans(received, tracing)
    chosen = [values(event.attributes) for event in span.events if event.name == "engine chosen"]
    assert [(each["proserve.engine"], each.get("proserve.engine.failure")) for each in chosen] == [
        ("a", "truncated"),
        ("b", None),
    ]
    # The rest of the stream, /detokenize included, is part of the same trace.
    assert {request.headers["traceparent"][3:35] for request in b.requests} == {span.trace_id.hex()}


async def test_failure_is_an_error_with_its_code_and_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(request: FakeRequest, reply: Reply) -> None:
        await reply.json(500, {"message": "it was about my secret"})

    async with fake_engine("a") as engine, traced(monkeypatch, engine) as (running, received, tracing):
        engine.behave = refuse
        await running.chat(messages=[{"role": "user", "content": "my secret"}])
        (span,) = await spans(received, tracing)
    found = values(span.attributes)
    assert (found["error.type"], found["proserve.loss_cause"]) == ("engine_failure", "engine_failure")
    assert span.status.code == 2
    assert "secret" not in str(span)


async def test_standard_variables_name_the_service_and_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"OTEL_SERVICE_NAME": "edge", "OTEL_EXPORTER_OTLP_HEADERS": "x-token=abc"}
    async with fake_engine("a") as engine, traced(monkeypatch, engine, **more) as (running, received, tracing):
        await running.chat()
        await spans(received, tracing)
    assert received.services == {"edge"}
    assert received.headers[0]["x-token"] == "abc"


async def test_without_tracing_the_clients_context_goes_to_the_engine_as_it_is() -> None:
    async with fake_engine("a") as engine, gateway(engine) as running:
        await running.chat(headers={"traceparent": PARENT})
        await running.chat()
        first, second = engine.requests
        (_, record) = running.decisions.latest(2)
    assert first.headers["traceparent"] == PARENT
    assert "traceparent" not in second.headers
    assert record.trace_id == TRACE_ID.hex()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"garbage",
        PARENT.upper().encode(),
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        PARENT.encode() + b"\r\nx: y",
    ],
)
def test_invalid_context_is_ignored(header: bytes) -> None:
    assert trace_context(header, None) is None


def test_invalid_state_is_dropped_and_the_parent_kept() -> None:
    assert trace_context(PARENT.encode(), b"a\r\nb") == TraceContext(PARENT.encode())


def test_gateway_that_does_not_trace_does_not_import_the_sdk() -> None:
    code = "import sys, proserve_gateway.server; print([name for name in sys.modules if 'opentelemetry' in name])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
