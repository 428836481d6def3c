"""Which request of a gateway a row of an engine's snapshot is.

The gateway sends its request id as `X-Request-Id`; vLLM (0.28 to 0.32) builds its internal ids around it:
`chatcmpl-<id>-<8 hex>`, `cmpl-<id>-<prompt index>-<8 hex>`, and with n > 1 `<sample>_` in front. The gateway's ids
hold no dash, so the part between the first two dashes is the id. Engines that use the id as it is are matched too.
"""

from collections.abc import Mapping

from proserve_core.routing.state import Dispatched


def own_id(row_id: str) -> str:
    """Gateway's request id in an engine's request id; the id itself where there is no dash."""
    parts = row_id.split("-", 2)
    return parts[1] if len(parts) > 1 else row_id


def own_request(dispatched: Mapping[str, Dispatched], row_id: str) -> Dispatched | None:
    """The request that a row shows; None: it is somebody else's."""
    return dispatched.get(row_id) or dispatched.get(own_id(row_id))
