"""The path that a request line asks for.

In absolute form (RFC 9112, 3.2.2; clients that are told to use a proxy send it) the target names a host, which counts
instead of the header `Host`. Neither chooses anything here, so it is dropped; scheme and host must look like what they
are, or two proxies could see two paths.
"""

import re
from urllib.parse import unquote

_ORIGIN = re.compile(rb"https?://[^/?#@]+(?=[/?#]|$)", re.IGNORECASE)


def path_of(target: bytes) -> str:
    """Decoded, without query; a target of another form is its own path, which nothing serves."""
    if not target.startswith(b"/") and (origin := _ORIGIN.match(target)) is not None:
        target = target[origin.end() :]
    path = target.partition(b"?")[0].decode("latin-1") or "/"
    return unquote(path) if "%" in path else path
