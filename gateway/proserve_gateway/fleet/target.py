"""Where an engine is: what discovery knows (`EngineTarget`) and what the data path needs (`Endpoint`).

Targets come from whoever starts or finds engines: the command line, a pool's `endpoints`, the watch of Kubernetes.
"""

from urllib.parse import urlsplit

import msgspec


class TargetError(ValueError):
    """A target's address cannot be used; the message names the target, the value and the fix."""


class TlsPeer(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a connection must reach where the address does not tell: pods have addresses, certificates have names."""

    server_name: str
    authority: str = ""
    """Who signs the engine's certificates, PEM; empty: nobody is trusted to."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Address of one engine's OpenAI server."""

    name: str
    host: str
    port: int
    base_path: str
    """Path in front of `/v1`, without a slash at its end; mostly empty."""
    tls: bool
    peer: TlsPeer | None = None
    """None: the certificate is for the address, and checked as the gateway is told for all engines."""
    api_key: str | None
    has_capacity: bool
    """The engine publishes capacity, so it is ours and understands class facts in `vllm_xargs`."""
    is_vllm: bool = False
    """It can tell each chunk's usage and token ids. Ours are."""

    def __repr__(self) -> str:
        """Without the key."""
        scheme = "https" if self.tls else "http"
        return f"Endpoint({self.name} {scheme}://{self.host}:{self.port}{self.base_path})"


class EngineTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as discovery reports it."""

    name: str
    """Unique in the fleet; appears in metrics and in the `x-proserve-engine` header."""
    pool: str
    base_url: str
    """OpenAI server, with or without `/v1` at the end, e.g. `http://10.0.0.7:8000`."""
    capacity_url: str | None = None
    """Capacity server, e.g. `http://10.0.0.7:9400`; None: the engine has none (any OpenAI server)."""
    api_key: str | None = None
    """Key that both of its servers ask from us."""
    peer: TlsPeer | None = None
    """As in `Endpoint`."""

    def __repr__(self) -> str:
        """Without the key."""
        return f"EngineTarget({self.name} pool={self.pool} {self.base_url} capacity={self.capacity_url})"

    def same_server(self, other: "EngineTarget") -> bool:
        """Whether nothing but the key and the authority differs."""
        return msgspec.structs.replace(other, api_key=self.api_key, peer=self.peer) == self

    def endpoint(self, *, has_capacity: bool, is_vllm: bool = False) -> Endpoint:
        """Address of the OpenAI server.

        Raises:
            TargetError: `base_url` is not an http(s) address.
        """
        return self._endpoint(
            "base_url", self.base_url, without="/v1", has_capacity=has_capacity, is_vllm=has_capacity or is_vllm
        )

    def capacity_endpoint(self) -> Endpoint | None:
        """Address of the capacity server.

        Raises:
            TargetError: `capacity_url` is not an http(s) address.
        """
        if self.capacity_url is None:
            return None
        return self._endpoint("capacity_url", self.capacity_url, without="/capacity", has_capacity=True)

    def _endpoint(self, field: str, url: str, *, without: str, has_capacity: bool, is_vllm: bool = False) -> Endpoint:
        """Address at `url`, what `field` says, `without` this at its end."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise TargetError(
                f"engine {self.name}: {field} {url!r} is not an address; write it like http://10.0.0.7:8000"
            )
        tls = parts.scheme == "https"
        return Endpoint(
            name=self.name,
            host=parts.hostname,
            port=port or (443 if tls else 80),
            base_path=parts.path.rstrip("/").removesuffix(without),
            tls=tls,
            peer=self.peer,
            api_key=self.api_key,
            has_capacity=has_capacity,
            is_vllm=is_vllm,
        )
