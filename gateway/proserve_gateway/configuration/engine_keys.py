"""Keys for engines in pods, from the Secret that a pool names (`spec.engine.keys`).

Engines have the Secret mounted, and keep what they had when it goes or becomes useless. So does the gateway: the last
key that was right is sent on, and what is wrong is told. A pool whose engines need a key no longer still has some that
do until they are replaced; one that needs none takes any.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from proserve_core.access_keys import AccessKeysError, parse_keys
from proserve_core.objectives import SecretKeyRef
from proserve_core.pools import EnginePool
from proserve_core.resources.secrets import OPAQUE
from proserve_gateway.configuration.catalog import qualified_name
from proserve_gateway.fleet.target import EngineTarget

FIELD = "spec.engine.keys.secretKeyRef"

Secrets = Mapping[tuple[str, str], Mapping[str, Any]]
"""By namespace and name."""


class EngineKeys:
    """The key of each pool."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def read(self, pools: Iterable[EnginePool], secrets: Secrets) -> dict[tuple[str, str], str]:
        """Take the keys of these pools; what is wrong, by namespace and name of the pool."""
        problems: dict[tuple[str, str], str] = {}
        named = {qualified_name(pool.namespace, pool.name): pool for pool in pools}
        self._keys = {name: key for name, key in self._keys.items() if name in named}
        for name, pool in named.items():
            if pool.engine.keys is None:
                continue
            try:
                self._keys[name] = _first_key(pool.namespace, pool.engine.keys, secrets)
            except AccessKeysError as error:
                kept = "the last right key is sent on" if name in self._keys else "engines refuse all requests"
                problems[pool.namespace, pool.name] = f"{FIELD}: {error}; until then {kept}"
        return problems

    def with_keys(self, engines: Iterable[EngineTarget]) -> Sequence[EngineTarget]:
        """The engines with the keys of their pools."""
        return [msgspec.structs.replace(each, api_key=self._keys.get(each.pool)) for each in engines]


def _first_key(namespace: str, reference: SecretKeyRef, secrets: Secrets) -> str:
    secret = secrets.get((namespace, reference.name))
    if secret is None:
        raise AccessKeysError(f"there is no Secret {reference.name!r} in namespace {namespace}; make it")
    if (kind := secret.get("type", OPAQUE)) != OPAQUE:
        raise AccessKeysError(
            f"Secret {reference.name!r} has type {kind!r}, and keys are read from type {OPAQUE} only; delete it and "
            f"make it anew with type {OPAQUE}"
        )
    place = f"entry {reference.key!r} of Secret {reference.name!r}"
    encoded = (secret.get("data") or {}).get(reference.key)
    if encoded is None:
        raise AccessKeysError(f"{place} is not there; add it")
    try:
        return parse_keys(base64.b64decode(encoded, validate=True).decode())[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise AccessKeysError(f"{place} is no text; write one key a line") from error
    except AccessKeysError as error:
        raise AccessKeysError(f"{place}: {error}") from error
