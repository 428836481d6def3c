"""W3C trace context of a request: what the client sent, and what the engine gets so that its spans join.

Read strictly: it is the only thing of a client's headers that reaches an engine.
"""

import re

import msgspec

_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}")


class TraceContext(msgspec.Struct, frozen=True):
    """Whose child the next span is."""

    traceparent: bytes
    tracestate: bytes = b""

    def head(self) -> bytes:
        """Header lines for an engine."""
        state = b"tracestate: %s\r\n" % self.tracestate if self.tracestate else b""
        return b"traceparent: %s\r\n%s" % (self.traceparent, state)

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35].decode()


def trace_context(traceparent: bytes, tracestate: bytes | None) -> TraceContext | None:
    """What a client's headers say; None when they are not valid, as the standard wants it."""
    if _TRACEPARENT.fullmatch(traceparent) is None:
        return None
    if tracestate is None or _TRACESTATE.fullmatch(tracestate) is None:
        return TraceContext(traceparent)
    return TraceContext(traceparent, tracestate)
