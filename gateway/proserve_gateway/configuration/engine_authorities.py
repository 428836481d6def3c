"""Who signs the certificates of engines in pods, from the Secret that a pool names (`spec.engine.tls`).

It is the entry `ca.crt`, as cert-manager writes it, beside the certificate that the engines serve with. A renewed
Secret reaches gateways at once and engines when the kubelet has replaced their files, so for some minutes an authority
that was replaced is trusted beside the new one. Without an authority no engine of the pool is talked to.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from proserve_core.pools import EnginePool
from proserve_core.resources.secrets import TLS
from proserve_gateway.configuration.catalog import qualified_name
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.security.tls import TlsError, check_authority

FIELD = "spec.engine.tls.secretName"
ENTRY = "ca.crt"
OVERLAP_S = 600.0
"""For how long a replaced authority is trusted. The kubelet takes some two minutes."""
MOST_REPLACED = 4
"""Of one pool at a time, however often its Secret changes."""

Secrets = Mapping[tuple[str, str], Mapping[str, Any]]
"""By namespace and name."""


class _Replaced(msgspec.Struct, frozen=True):
    authority: str
    until_s: float


class _Known(msgspec.Struct, frozen=True):
    """Of one pool."""

    authority: str
    replaced: tuple[_Replaced, ...] = ()
    """Those still trusted, the latest last."""

    def at(self, now_s: float) -> "_Known":
        return _Known(self.authority, tuple(each for each in self.replaced if now_s < each.until_s))

    def renewed(self, authority: str, now_s: float) -> "_Known":
        others = [each for each in self.replaced if each.authority not in (self.authority, authority)]
        latest = _Replaced(self.authority, now_s + OVERLAP_S)
        return _Known(authority, (*others, latest)[-MOST_REPLACED:])

    @property
    def trusted(self) -> str:
        return self.authority + "".join([each.authority for each in reversed(self.replaced)])


class EngineAuthorities:
    """The authority of each pool."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def read(self, pools: Iterable[EnginePool], secrets: Secrets, *, now_s: float) -> dict[tuple[str, str], str]:
        """Take the authorities of these pools; what is wrong, by namespace and name of the pool."""
        problems: dict[tuple[str, str], str] = {}
        named = {qualified_name(pool.namespace, pool.name): pool for pool in pools}
        # A pool whose engines speak plain text from now on has some that speak TLS until they are replaced.
        self._known = {name: known.at(now_s) for name, known in self._known.items() if name in named}
        for name, pool in named.items():
            if pool.engine.tls_secret is None:
                continue
            known = self._known.get(name)
            try:
                authority = _authority(pool.namespace, pool.engine.tls_secret, secrets)
            except TlsError as error:
                kept = "its engines can't be reached" if known is None else "the last right one is trusted"
                problems[pool.namespace, pool.name] = f"{FIELD}: {error}; until then {kept}"
                continue
            if known is None:
                self._known[name] = _Known(authority)
            elif authority != known.authority:
                self._known[name] = known.renewed(authority, now_s)
        return problems

    @property
    def next_change_s(self) -> float | None:
        """When an authority that was replaced is trusted no longer; None: there is none."""
        return min((each.until_s for known in self._known.values() for each in known.replaced), default=None)

    def with_authorities(self, engines: Iterable[EngineTarget]) -> Sequence[EngineTarget]:
        """The engines with the authorities of their pools."""
        return [
            each
            if each.peer is None or (known := self._known.get(each.pool)) is None
            else msgspec.structs.replace(each, peer=msgspec.structs.replace(each.peer, authority=known.trusted))
            for each in engines
        ]


def _authority(namespace: str, name: str, secrets: Secrets) -> str:
    secret = secrets.get((namespace, name))
    if secret is None:
        raise TlsError(f"there is no Secret {name!r} in namespace {namespace}; make it")
    if (kind := secret["type"]) != TLS:
        raise TlsError(f"Secret {name!r} has type {kind!r}, expected {TLS}; delete it and make it anew with that type")
    encoded = secret.get("data", {}).get(ENTRY)
    if not encoded:
        raise TlsError(f"Secret {name!r} has no entry {ENTRY!r}; add the certificate of who signed its tls.crt, PEM")
    try:
        return _checked(encoded)
    except (binascii.Error, UnicodeDecodeError, TlsError) as error:
        raise TlsError(f"entry {ENTRY!r} of Secret {name!r} is no certificate in PEM form; replace it") from error


@lru_cache(maxsize=1024)
def _checked(encoded: str) -> str:
    """Whatever changes in the cluster, all pools are read again."""
    # A line end, because two of them are put together.
    authority = base64.b64decode(encoded, validate=True).decode("ascii").rstrip() + "\n"
    check_authority(authority)
    return authority
