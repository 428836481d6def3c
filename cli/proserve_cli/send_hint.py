"""A curl command that works as it stands, made from the resources in force."""

import shlex

import msgspec

from proserve_core.resources import Resources


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
