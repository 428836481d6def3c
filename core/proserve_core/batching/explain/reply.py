"""What an engine answers to `GET /explain/ID`."""

import msgspec

from proserve_core.batching.explain.explanation import Explanation


class RequestDecisions(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept about one request."""

    id: str
    """The engine's."""
    decisions: tuple[Explanation, ...]
    """Oldest first."""


class ExplainReply(msgspec.Struct, frozen=True):
    """Body of `/explain/ID`."""

    requests: list[RequestDecisions]
