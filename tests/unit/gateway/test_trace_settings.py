"""OpenTelemetry's own variables, and nothing else, switch traces on."""

import pytest

from proserve_gateway.seeing.trace_settings import tracing_wanted

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    "environment",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "false"},
    ],
)
def test_on(environment: dict[str, str]) -> None:
    assert tracing_wanted(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "gateway"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        ENDPOINT | {"OTEL_SDK_DISABLED": "true"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_off(environment: dict[str, str]) -> None:
    assert not tracing_wanted(environment)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc': .* http/protobuf only"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'http/json'"),
    ],
)
def test_what_there_is_not_is_refused(more: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tracing_wanted(ENDPOINT | more)
