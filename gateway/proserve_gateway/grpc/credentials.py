"""Certificates of the gRPC port, which the library asks for before each handshake."""

from typing import Any

import grpc

from proserve_gateway.security.tls import ServerTls


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Follow `tls.renew`."""
    given = tls.contents

    def changed() -> Any:
        nonlocal given
        if given is tls.contents:
            return None
        given = tls.contents
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given), changed, require_client_authentication=tls.asks_clients
    )


def _configuration(contents: list[bytes]) -> Any:
    certificate, key, client_ca = contents
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca or None)
