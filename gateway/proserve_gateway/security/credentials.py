"""What the gateway shows and what it asks for: certificates and keys of its ports and of its engines, from files."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.security.renewals import KeyFile, Renewed
from proserve_gateway.security.tls import EngineTls, EngineTlsFiles, ServerTls, TlsFiles

DATA_TLS, ENGINE_TLS, ADMIN_KEYS, ENGINE_KEYS = "data_tls", "engine_tls", "admin_keys", "engine_keys"
"""Names of the parts, in logs and metrics."""


class CredentialFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where they are."""

    tls: TlsFiles | None = None
    """Of the data ports, HTTP and gRPC; None: they speak plain text."""
    engine_tls: EngineTlsFiles = EngineTlsFiles()
    admin_keys: Path | None = None
    """Who knows one of them may read the admin port; None: everybody who reaches it."""
    engine_keys: Path | None = None
    """The first one is sent to the engines that were started for pools; None: no key, or each engine's own."""


class Credentials:
    """All of them, as they are now."""

    def __init__(self, files: CredentialFiles) -> None:
        """
        Raises:
            TlsError: a certificate can't be used.
            AccessKeysError: a key file can't be used.
        """
        self.tls = None if files.tls is None else ServerTls(files.tls)
        self.engine_tls = EngineTls(files.engine_tls)
        self.admin_keys = None if files.admin_keys is None else KeyFile(files.admin_keys)
        self._engine_keys = None if files.engine_keys is None else KeyFile(files.engine_keys)

    @property
    def parts(self) -> dict[str, Renewed]:
        """For `renewals.keep_renewed`."""
        named = {
            DATA_TLS: self.tls,
            ENGINE_TLS: self.engine_tls,
            ADMIN_KEYS: self.admin_keys,
            ENGINE_KEYS: self._engine_keys,
        }
        return {name: part for name, part in named.items() if part is not None}

    def with_key(self, engines: Sequence[EngineTarget]) -> list[EngineTarget]:
        """The engines with the shared key, where they have none of their own."""
        if self._engine_keys is None:
            return list(engines)
        key = self._engine_keys.keys[0]
        return [each if each.api_key is not None else msgspec.structs.replace(each, api_key=key) for each in engines]
