"""A span for every routed request, in OpenTelemetry's terms: what was asked, where it went, what was expected and got.

The span is the parent of the engine's, so that vLLM's own spans (`--otlp-traces-endpoint`) hang below it. Attributes
follow the GenAI semantic conventions (in development) where these have a name, and are `proserve.*` otherwise. No
prompt, no answer. Imported only when tracing is on: what it imports costs more than the whole gateway's start.
"""

import os
import threading
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proserve_core.request_record import RequestRecord
from proserve_gateway.requests.body import BodyKind
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.seeing.accounting import CLIENT_CLOSED
from proserve_gateway.seeing.decisions import Decisions
from proserve_gateway.seeing.request_trail import RequestTrail
from proserve_gateway.seeing.trace_context import TraceContext

EXPORT_S = 2.0
"""For the last spans, when the gateway ends."""

_OPERATIONS = {BodyKind.CHAT: "chat", BodyKind.COMPLETION: "text_completion"}
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Follows requests from `Decisions`."""

    def __init__(self, decisions: Decisions) -> None:
        """Spans are exported as the environment says."""
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(resource=_resource())
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("proserve.gateway")
        self._decisions = decisions
        self._spans: dict[str, Span] = {}
        """Of requests under way."""
        decisions.on_begin.append(self._begin)
        decisions.on_end.append(self._end)

    def close(self) -> None:
        """Export what is left; blocks until that is done or was given up after `EXPORT_S`."""
        give_up = threading.Timer(EXPORT_S, self._exporter.shutdown)
        give_up.start()
        self._provider.shutdown()
        give_up.cancel()

    def _begin(self, request: InferenceRequest, trail: RequestTrail) -> None:
        operation = _OPERATIONS.get(request.body.kind, request.path.rsplit("/", 1)[-1])
        span = self._tracer.start_span(
            f"{operation} {trail.model}",
            context=_parent(request.trace),
            kind=SpanKind.SERVER,
            start_time=self._nanoseconds(request.arrival_s),
            attributes={"gen_ai.operation.name": operation, "gen_ai.request.model": trail.model},
        )
        self._spans[trail.id] = span
        request.trace = _child_of(span)
        trail.trace_id = request.trace.trace_id

    def _end(self, trail: RequestTrail) -> None:
        span = self._spans.pop(trail.id, None)
        if span is None:
            return
        if span.is_recording():
            self._fill(span, self._decisions.record(trail))
        span.end(self._nanoseconds(trail.ended_s or 0.0))

    def _fill(self, span: Span, record: RequestRecord) -> None:
        span.set_attributes(_attributes(record))
        arrived_ns = round(record.arrived_unix_s * 1e9)
        for attempt in record.attempts:
            chosen: dict[str, Any] = {"proserve.engine": attempt.engine, "proserve.route.reason": attempt.reason}
            _put(chosen, "proserve.ttft.expected_s", attempt.expected_ttft_s)
            _put(chosen, "proserve.gain.expected", attempt.expected_gain)
            _put(chosen, "proserve.engine.failure", attempt.failure or None)
            span.add_event("engine chosen", chosen, timestamp=arrived_ns + round(attempt.sent_s * 1e9))
        if record.ttft_s is not None:
            span.add_event("first token", timestamp=arrived_ns + round(record.ttft_s * 1e9))
        if record.error:
            span.set_attribute("error.type", record.error)
        if record.status is not None and record.status >= 500:
            span.set_status(StatusCode.ERROR, record.error)
        elif record.status == CLIENT_CLOSED:
            span.set_attribute("error.type", "client_closed")

    def _nanoseconds(self, at_s: float) -> int:
        return round((at_s + self._decisions.unix_offset_s) * 1e9)


def _resource() -> Resource:
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {SERVICE_NAME: "proserve-gateway"})


def _parent(trace: TraceContext | None) -> Context:
    if trace is None:
        return Context()
    carrier = {"traceparent": trace.traceparent.decode(), "tracestate": trace.tracestate.decode()}
    return _propagator.extract(carrier, Context())


def _child_of(span: Span) -> TraceContext:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, set_span_in_context(span, Context()))
    return TraceContext(carrier["traceparent"].encode(), carrier.get("tracestate", "").encode("ascii", "ignore"))


def _attributes(record: RequestRecord) -> dict[str, Any]:
    """Of the whole request."""
    found: dict[str, Any] = {
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.request.stream": record.streams,
        "proserve.request_id": record.id,
        "proserve.class": record.priority_class,
        "proserve.tenant": record.tenant,
        "proserve.pool": record.pool,
        "proserve.gain.earned": record.earned,
        "proserve.gain.lost": sum(record.lost.values()),
        "proserve.ttft.objective_s": record.terms.objectives.ttft_s,
    }
    _put(found, "gen_ai.usage.input_tokens", record.prompt_tokens)
    _put(found, "gen_ai.request.max_tokens", record.max_tokens)
    _put(found, "gen_ai.request.choice.count", record.choices if record.choices > 1 else None)
    _put(found, "http.response.status_code", record.status)
    _put(found, "proserve.ttft_s", record.ttft_s)
    _put(found, "proserve.loss_cause", record.main_loss)
    if record.attempts:
        last = record.attempts[-1]
        found["proserve.engine"] = last.engine
        found["proserve.waited_s"] = sum(attempt.waited_s for attempt in record.attempts)
        _put(found, "proserve.ttft.expected_s", record.attempts[0].expected_ttft_s)
        _put(found, "proserve.gain.expected", record.attempts[0].expected_gain)
    return found


def _put(attributes: dict[str, Any], name: str, value: object) -> None:
    if value is not None:
        attributes[name] = value
