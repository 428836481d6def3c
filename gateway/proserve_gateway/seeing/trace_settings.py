"""Whether requests are traced: OpenTelemetry's standard environment variables decide, and nothing else.

Spans are exported when OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, or
OTEL_TRACES_EXPORTER is `otlp`. Everything else (headers, time-outs, sampler, resource, batches) the SDK reads from its
own variables.
"""

from collections.abc import Mapping

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"


def tracing_wanted(environment: Mapping[str, str]) -> bool:
    """Whether to trace.

    Raises:
        ValueError: what is asked for is not there; the message names the variable.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter not in ("", "otlp", "none"):
        raise ValueError(f"OTEL_TRACES_EXPORTER is {exporter!r}: the gateway exports with otlp only, or none")
    if exporter == "none" or not (exporter or any(environment.get(name) for name in _ENDPOINTS)):
        return False
    variable = next((name for name in _PROTOCOLS if environment.get(name)), None)
    if variable is not None and environment[variable] != PROTOCOL:
        raise ValueError(f"{variable} is {environment[variable]!r}: the gateway exports with {PROTOCOL} only")
    return True
