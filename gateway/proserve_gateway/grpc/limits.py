"""What calls and connections of gRPC may take."""

import msgspec


class GrpcLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one port."""

    message_bytes: int = 4 * 2**20
    """Of a request; grpc answers larger ones with RESOURCE_EXHAUSTED."""
    message_s: float = 60.0
    """From the call's headers to the whole message."""
    message_at_once_s: float = 1.0
    """One that takes longer counts for the longest that there may be until it is here: grpc does not tell how long it
    is, and keeps what has come of it. Not from the beginning, or the calls of a burst would find no room."""
    handshake_s: float = 10.0
    """Until a connection speaks HTTP/2, and TLS where it must."""
    connections: int | None = None
    """Further ones are closed at once: grpc knows no way to prefer them to one that only waits. None: as many as the
    HTTP port may have."""
    streams: int = 1024
    """Calls at a time on one connection; clients keep further ones back."""
    idle_s: float = 300.0
    """A connection without calls is closed after so long; clients make it anew with the next call."""
    ping_interval_s: float = 10.0
    """Clients that ping more often are cut off."""
    keepalive_s: float = 30.0
    """After so long a silence the server pings; a client that does not answer is gone, and its calls are cancelled."""
    keepalive_answer_s: float = 10.0
    connection_age_s: float = 1800.0
    """Older connections are asked to come anew, so that clients spread over new gateways; their calls go on."""
