"""Keys that open a port of ours: what engines ask the gateway for, and what the admin port asks people for.

A file holds one key a line. All of them open, the first one is what a client of the port sends, so a key is replaced
without an interruption: add the new one below, put it first once every server has it, remove the old one.
"""

import hmac
import re
from collections.abc import Sequence

SHORTEST = 16
"""Characters of a key: nobody should guess one."""

_KEY = re.compile(r"[\x21-\x7e]+")


class AccessKeysError(ValueError):
    """A key file can't be used; the message says why and never shows a key."""


def parse_keys(text: str) -> tuple[str, ...]:
    """The keys in the contents of a file.

    Raises:
        AccessKeysError: there is none, or one that can't be sent in a header or is too short.
    """
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line and not _KEY.fullmatch(line):
            raise AccessKeysError(f"line {number}: expected a key of printable ASCII characters without spaces")
        if 0 < len(line) < SHORTEST:
            raise AccessKeysError(
                f"line {number}: the key has {len(line)} characters, it must have at least {SHORTEST}: "
                "make one with `openssl rand -hex 24`"
            )
    keys = tuple(line for line in lines if line)
    if not keys:
        raise AccessKeysError("holds no key: write one on a line of its own, such as `openssl rand -hex 24` makes")
    return keys


def opens(keys: Sequence[str], given: bytes | None) -> bool:
    """Whether `given` is one of the keys. How long it takes tells nothing but the keys' lengths."""
    if given is None:
        return False
    found = False
    for key in keys:
        found |= hmac.compare_digest(key.encode(), given)
    return found


def bearer_key(authorization: bytes) -> bytes | None:
    """The key in an `Authorization` header; None if it is not a bearer token."""
    scheme, _, key = authorization.strip().partition(b" ")
    key = key.strip()
    return key if scheme.lower() == b"bearer" and key else None
