"""The TLS side of an engine's ports, from files that are renewed while it runs.

A mounted Secret is replaced some weeks before its certificate ends. New connections get the new one: the context that
a server holds stays the same object, and its handshake callback hands each connection the context that was made last
(as in the gateway). The files are looked at in handshakes, so nothing has to run for it.

vLLM's own port is vLLM's: `--enable-ssl-refresh`, see `serve`.
"""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from proserve_engine.look import Look

logger = logging.getLogger(__name__)


class TlsError(ValueError):
    """The files can't be used; the message names them and says what to do."""


class TlsPair(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files of an engine."""

    certificate: str
    """The engine's certificate, followed by the intermediate ones."""
    key: str


class ServingTls:
    """The context with which a port serves."""

    def __init__(self, pair: TlsPair, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Raises:
            TlsError: the files can't be used.
        """
        self._pair = pair
        self._seen = _contents(pair)
        self._newest = _context(pair)
        self._look = Look(clock)
        self.context = _context(pair)
        """For servers. Always the same object."""
        self.context.sni_callback = self._hand_over

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if self._look.due():
            self._renew()
        connection.context = self._newest

    def _renew(self) -> None:
        seen = _contents(self._pair)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._newest = _context(self._pair)
        except TlsError as error:
            logger.error("the engine's certificate stays as it was: %s", error)
        else:
            logger.info("the engine's new certificate is in force")


def serving_tls(pair: TlsPair | None) -> ssl.SSLContext | None:
    """What a port serves with; None without files.

    Raises:
        TlsError: the files can't be used.
    """
    return None if pair is None else ServingTls(pair).context


def _contents(pair: TlsPair) -> list[bytes]:
    """A file that is not there counts as empty: no context can be made of it."""
    contents = []
    for path in (pair.certificate, pair.key):
        try:
            contents.append(Path(path).read_bytes())
        except OSError:
            contents.append(b"")
    return contents


def _context(pair: TlsPair) -> ssl.SSLContext:
    def no_passphrase() -> str:
        raise TlsError(f"{pair.key} is encrypted: store it without a passphrase, readable for the engine only")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(pair.certificate, pair.key, no_passphrase)
    except ssl.SSLError as error:
        raise TlsError(
            f"{pair.certificate} and {pair.key}: expected a pair of certificate and key in PEM form: "
            f"{error.reason or error}"
        ) from error
    except OSError as error:
        raise TlsError(f"{pair.certificate} and {pair.key}: cannot be read: {error.strerror or error}") from error
    return context
