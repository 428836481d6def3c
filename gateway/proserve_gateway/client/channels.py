"""Channel options of both clients."""

from pathlib import Path

import grpc
import msgspec

OPTIONS = (
    # Finds a dead gateway inside a long silence; the gateway takes a ping every ten seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class ClientTls(msgspec.Struct, frozen=True, kw_only=True):
    """TLS of a client, PEM files."""

    ca: Path | None = None
    """Who signs the gateway's certificate; None: whom grpc trusts by default."""
    certificate: Path | None = None
    """What the client shows, where the gateway asks for a certificate."""
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        parts = [None if path is None else path.read_bytes() for path in (self.ca, self.key, self.certificate)]
        return grpc.ssl_channel_credentials(*parts)
