"""One GET to a server on this machine: readiness and status polls, without an HTTP library in the base installation."""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

LIMIT_BYTES = 4 << 20


class GetError(Exception):
    """No usable reply."""


async def get(url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of `GET url`.

    Raises:
        GetError: nobody answers in time, or the answer is not HTTP.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=LIMIT_BYTES)
            try:
                # HTTP/1.0: the reply ends with the connection, so there are no chunks to decode.
                lines = [f"GET {target} HTTP/1.0", f"host: {host}"]
                lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
                writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
                reply = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise GetError(f"{url}: {str(error) or f'no reply within {timeout_s:g} s'}") from error
    head, separator, body = reply.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if not separator or len(words) < 2 or not words[1].isdigit():
        raise GetError(f"{url}: the reply is not HTTP")
    return int(words[1]), body
