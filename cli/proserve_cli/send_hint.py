"""Where a started gateway listens, and a curl command that works as it stands."""

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


def curl_command(resources: Resources, http: str) -> str:
    """A short chat request to the first model, with the key of the first tenant that has one."""
    body = {
        "model": resources.engine_pools[0].model.name,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 16,
        "stream": True,
    }
    parts = ["curl", "-N", f"{http}/v1/chat/completions", "-H", "content-type: application/json"]
    key = next((key for tenant in resources.tenants for key in resources.api_keys(tenant)), None)
    if key is not None:
        parts += ["-H", f"authorization: Bearer {key}"]
    return shlex.join([*parts, "-d", msgspec.json.encode(body).decode()])
