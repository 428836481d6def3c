"""`v1` Secret documents in their plain Kubernetes shape: where API keys come from.

Values are never shown: neither in errors nor in the repr of the domain object.
"""

from collections.abc import Mapping

import msgspec

from proserve_core.resources.fields import SECRET_ENTRY, Boolean, Field, MapOf, SecretText, Text
from proserve_core.resources.kinds import Kind, Reading

OPAQUE = "Opaque"
"""The type of those that people make. Tokens, certificates and Helm's releases have others, and are never keys."""
TLS = "kubernetes.io/tls"
"""The type of certificates with their keys."""


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """Named byte strings."""

    name: str
    namespace: str
    values: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"Secret({self.namespace}/{self.name}, keys: {', '.join(sorted(self.values))})"


SECRET = Kind(
    name="Secret",
    api_version="v1",
    namespaced=True,
    description="An ordinary Kubernetes Secret that holds API keys.",
    fields=(
        Field(
            name="data",
            type=MapOf(keys=SECRET_ENTRY, values=SecretText(base64=True)),
            description="Entries in base64.",
        ),
        Field(
            name="stringData",
            type=MapOf(keys=SECRET_ENTRY, values=SecretText()),
            description="Entries as plain text; they win over entries of the same key in data.",
        ),
        Field(name="type", type=Text(), description=f"Kubernetes type: {OPAQUE}, or nothing, which means the same."),
        Field(name="immutable", type=Boolean(), description="Kubernetes flag; not read."),
    ),
)


def secret_values(reading: Reading) -> dict[str, bytes]:
    """Entries that could be read."""
    return {**reading.values.get("data", {}), **reading.values.get("stringData", {})}


def other_type(reading: Reading) -> str | None:
    """Its type, if no keys are read from that."""
    kind: str = reading.values.get("type", OPAQUE)
    return None if kind == OPAQUE else kind


def has_entry(reading: Reading, key: str) -> bool:
    """Whether the Secret has the entry, readable or not."""
    return reading.has(f"data[{key}]") or reading.has(f"stringData[{key}]")


def build_secret(reading: Reading) -> Secret:
    """The domain object of a reading without errors."""
    return Secret(name=reading.name or "", namespace=reading.namespace, values=secret_values(reading))
