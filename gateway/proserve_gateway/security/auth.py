"""API keys: who owns the one that a client sent, without keeping any key.

Keys are held as BLAKE2b digests under a random key of the process, so a memory dump holds nothing that can be sent to
a gateway, and the time of a look-up says nothing about a key that the caller does not already know. The final
comparison is constant-time.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

_BUCKET_BYTES = 8


class KeyRing:
    """Digests of API keys and the names of their owners."""

    __slots__ = ("_buckets", "_pepper")

    def __init__(self, keys: Iterable[tuple[bytes, str]]) -> None:
        """`keys` are pairs of key and owner.

        Raises:
            ValueError: two owners have the same key; the message names the owners, never the key.
        """
        self._pepper = secrets.token_bytes(32)
        self._buckets: dict[bytes, list[tuple[bytes, str]]] = {}
        for key, owner in keys:
            digest = self._digest(key)
            known = self.owner(key)
            if known is not None and known != owner:
                raise ValueError(f"tenants {known} and {owner} have the same API key: give each its own")
            self._buckets.setdefault(digest[:_BUCKET_BYTES], []).append((digest, owner))

    def owner(self, key: bytes) -> str | None:
        """Name of the key's owner; None if nobody has this key."""
        digest = self._digest(key)
        found = None
        for candidate, owner in self._buckets.get(digest[:_BUCKET_BYTES], ()):
            if hmac.compare_digest(candidate, digest):
                found = owner
        return found

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._pepper, digest_size=32).digest()
