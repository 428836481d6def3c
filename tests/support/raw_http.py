"""Requests as bytes on a socket: proper ones, and a corpus of those that are not."""

from gateway_builders import GOLD_KEY

HI = b'{"model":"tiny","prompt":"hi"}'
KEY = f"authorization: Bearer {GOLD_KEY}\r\n".encode()
POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n" + KEY


def sized(body: bytes, head: bytes = POST) -> bytes:
    return head + b"content-length: %d\r\n\r\n%s" % (len(body), body)


HIDDEN = sized(b'{"model":"tiny","prompt":"hidden"}')
"""A whole request that another proxy would take for a part of the one before it."""
_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HI), HI)
_LENGTH = b"content-length: %d\r\n\r\n" % len(HI)

REFUSED: dict[str, bytes] = {
    "length and chunks": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"content-length: 0\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "list of lengths": POST + b"content-length: 0, 5\r\n\r\n" + HIDDEN,
    "signed length": POST + b"content-length: +%d\r\n\r\n" % len(HI) + HI,
    "negative length": POST + b"content-length: -1\r\n\r\n" + HI,
    "hexadecimal length": POST + b"content-length: 0x1e\r\n\r\n" + HI,
    "length with a space": POST + b"content-length: 3 0\r\n\r\n" + HI,
    "length beyond numbers": POST + b"content-length: 99999999999999999999999\r\n\r\n" + HI,
    "identity": POST + b"transfer-encoding: identity\r\n\r\n" + HIDDEN,
    "almost chunked": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "compressed chunks": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked, not last": POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two codings": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "space before colon": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "control character": POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKS + HIDDEN,
    "folded header": POST + b"x: a\r\n b\r\n" + _LENGTH + HI,
    "folded coding": POST + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "bare line feeds": POST.replace(b"\r\n", b"\n") + _LENGTH.replace(b"\r\n", b"\n") + HI,
    "one bare line feed": POST + b"x: y\n" + _LENGTH + HI,
    "bare carriage return": POST + b"x: y\rcontent-length: 5\r\n" + _LENGTH + HI,
    "zero byte": POST + b"x: a\0b\r\n" + _LENGTH + HI,
    "chunk with bare line feeds": POST + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKS.replace(b"\r\n", b"\n"),
    "chunk beyond numbers": POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n" + HI,
    "negative chunk": POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n" + HI,
    "prefixed chunk": POST + b"transfer-encoding: chunked\r\n\r\n0x" + _CHUNKS,
    "underscored chunk": POST + b"transfer-encoding: chunked\r\n\r\n1_e" + _CHUNKS[2:],
    "chunk longer than it says": POST + b"transfer-encoding: chunked\r\n\r\n2" + _CHUNKS[2:],
    "another version": sized(HI, POST.replace(b"HTTP/1.1", b"HTTP/2.0")),
    "no version": b"GET /v1/models\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no host": sized(HI, POST.replace(b"host: x\r\n", b"")),
    "two hosts": sized(HI, POST + b"host: y\r\n"),
    "two keys": sized(HI, POST + b"authorization: Bearer other\r\n"),
    "two classes": sized(HI, POST + b"x-proserve-class: low\r\nx-proserve-class: high\r\n"),
    "line break in the path": b"GET /v1/models\r\nx: y HTTP/1.1\r\nhost: x\r\n" + KEY + b"\r\n",
    "upgrade": POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "body longer than it says": POST + b"content-length: %d\r\n\r\n" % (len(HI) - 3) + HI + b"\r\n" + HIDDEN,
}
"""None of these reaches an engine, nor does what comes after it on the connection."""

ACCEPTED: dict[str, tuple[bytes, int]] = {
    "length": (sized(HI), 1),
    "chunks": (POST + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKS, 1),
    "chunk with an extension": (POST + b"transfer-encoding: chunked\r\n\r\n1e;a=b" + _CHUNKS[2:], 1),
    "trailer": (POST + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKS[:-2] + b"authorization: Bearer x\r\n\r\n", 1),
    "pipelined": (sized(HI) * 3, 3),
    "absolute form": (sized(HI, POST.replace(b"/v1", b"http://elsewhere:80/v1")), 1),
    "absolute form of TLS": (sized(HI, POST.replace(b"/v1", b"HTTPS://[::1]/v1")), 1),
    "HTTP/1.0": (sized(HI, POST.replace(b"1.1", b"1.0")), 1),
    "closing": (sized(HI, POST + b"connection: close\r\n") + HIDDEN, 1),
    "body of another request": (sized(HIDDEN, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + KEY), 0),
}
"""And how many requests reach an engine; none of them is the hidden one."""
