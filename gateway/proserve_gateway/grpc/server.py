"""The gRPC port: the service with health and reflection, from start to a shutdown that lets streams end.

Health follows readiness, for the server as a whole ("") and for the service by name, so that load balancers stop
sending before calls fail.
"""

import asyncio
from collections.abc import Callable

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from proserve_gateway.background import Background

# The module makes the service's descriptor known, which reflection reads.
from proserve_gateway.grpc.api import SERVICE, GrpcApi
from proserve_gateway.grpc.credentials import server_credentials
from proserve_gateway.grpc.limits import GrpcLimits
from proserve_gateway.http.listening import possible_connections
from proserve_gateway.security.tls import ServerTls

HEALTH_REFRESH_S = 0.5


class GrpcServer:
    """`start`, then `stop`. Lives in the running event loop."""

    def __init__(
        self, api: GrpcApi, *, background: Background, ready: Callable[[], bool], limits: GrpcLimits | None = None
    ) -> None:
        """`ready()` says whether new calls should come here."""
        limits = limits or GrpcLimits()
        self._background = background
        self._ready = ready
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.server_handshake_timeout_ms", int(limits.handshake_s * 1e3)),
                ("grpc.max_allowed_incoming_connections", limits.connections or possible_connections()),
                ("grpc.max_concurrent_streams", limits.streams),
                ("grpc.max_connection_idle_ms", int(limits.idle_s * 1e3)),
                ("grpc.http2.min_ping_interval_without_data_ms", int(limits.ping_interval_s * 1e3)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", int(limits.keepalive_s * 1e3)),
                ("grpc.keepalive_timeout_ms", int(limits.keepalive_answer_s * 1e3)),
                ("grpc.max_connection_age_ms", int(limits.connection_age_s * 1e3)),
                # Two servers on one port would share calls at random: the second must fail to start.
                ("grpc.so_reuseport", 0),
            )
        )
        self._health = health.aio.HealthServicer()
        self._refresher: asyncio.Task[None] | None = None
        self._server.add_generic_rpc_handlers((api.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int, tls: ServerTls | None = None) -> int:
        """Listen, with TLS where there is one; returns the port, which the system chooses for 0.

        Raises:
            OSError: the address cannot be had; the message names it.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, server_credentials(tls))
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address} (is the port in use?): {error}") from error
        await self._set_health()
        await self._server.start()
        self._refresher = self._background.run("gRPC health", self._refresh)
        return bound

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those under way end within `grace_s`, cancel the rest."""
        if self._refresher is not None:
            self._refresher.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_REFRESH_S)
            await self._set_health()

    async def _set_health(self) -> None:
        serving = health_pb2.HealthCheckResponse
        status = serving.SERVING if self._ready() else serving.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, status)
