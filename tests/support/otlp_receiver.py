"""A collector on loopback: takes OTLP over HTTP and keeps the spans."""

import contextlib
import gzip
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from local_server import QuietHandler, local_server


class Receiver:
    """What has come."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    @property
    def spans(self) -> list[Any]:
        """Of all services."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def services(self) -> set[str]:
        resources = [resource.resource for request in self.requests for resource in request.resource_spans]
        return {values(each.attributes)["service.name"] for each in resources}


def values(attributes: Any) -> dict[str, Any]:
    """Attributes by name."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 - name of http.server
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.headers.append(dict(self.headers))
            received.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

    with local_server(Handler) as address:
        received.url = f"http://{address}"
        yield received
