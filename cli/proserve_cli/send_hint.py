"""Where a started gateway listens, and how to send it a request."""

import shlex
from typing import TYPE_CHECKING

import msgspec

from proserve_cli.addresses import Address
from proserve_core.resources import Resources

if TYPE_CHECKING:
    from proserve_gateway.server import Gateway


def http_root(gateway: "Gateway") -> str:
    """Root of the OpenAI API."""
    return f"{gateway.http.scheme}://{Address(host=gateway.http.host, port=gateway.http.port)}"


def listening(gateway: "Gateway", *, grpc_host: str) -> str:
    """One line that scripts may wait for."""
    places = [f"OpenAI HTTP {http_root(gateway)}"]
    if gateway.grpc_port is not None:
        places.append(f"gRPC {Address(host=grpc_host, port=gateway.grpc_port)}")
    if gateway.admin is not None:
        places.append(f"metrics and status http://{Address(host=gateway.admin.host, port=gateway.admin.port)}")
    return f"ready: {', '.join(places)}"


def sample_request(resources: Resources, http: str, *, private: bool) -> str:
    """A curl command for a short chat request to the first model, as the first tenant that has a key, under a title.

    The key itself is shown where only the user sees it (`private`): what is not a screen may be a log.
    """
    body = {
        "model": resources.engine_pools[0].model.name,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 16,
        "stream": True,
    }
    title = "send a request"
    parts = ["curl", "-N", f"{http}/v1/chat/completions", "-H", "content-type: application/json"]
    keyed = next((tenant for tenant in resources.tenants if tenant.api_keys), None)
    if keyed is not None:
        key, place = resources.api_keys(keyed)[0], keyed.api_keys[0]
        if not private:
            key, title = "KEY", f"{title} (KEY: entry {place.key} of Secret {place.name})"
        parts += ["-H", f"authorization: Bearer {key}"]
    command = shlex.join([*parts, "-d", msgspec.json.encode(body).decode()])
    return f"{title}:\n  {command}"
