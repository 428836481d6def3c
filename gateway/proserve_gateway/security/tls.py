"""TLS from files that are renewed while the gateway runs (cert-manager and its like rewrite them every few weeks).

New connections get the new certificate, open ones go on. The context that servers hold stays the same object for ever:
its handshake callback hands each connection the context that was made last, so certificate, key and client CA change
together. Files that can't be used are reported once and change nothing.
"""

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import msgspec

AUTHORITIES = 256
"""Contexts that are kept for engines with authorities of their own."""


class TlsError(ValueError):
    """The files can't be used; the message names the file and what to do."""


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files of a server."""

    certificate: Path
    """The server's certificate, followed by the intermediate ones."""
    key: Path
    client_ca: Path | None = None
    """Clients must show a certificate that one of these signed; None: clients show none."""


class EngineTlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files for connections to `https://` engines."""

    ca: Path | None = None
    """Who signs engines' certificates; None: whom the system trusts."""
    certificate: Path | None = None
    """What the gateway shows to engines that ask for a certificate."""
    key: Path | None = None


class _Made(msgspec.Struct, frozen=True):
    """A context and the contents that it was made of."""

    context: ssl.SSLContext
    contents: list[bytes]


class ServerTls:
    """The TLS side of the data ports."""

    def __init__(self, files: TlsFiles) -> None:
        """
        Raises:
            TlsError: the files can't be used.
        """
        self._files = files
        self._seen = _read(files)
        self._made = _Made(_server_context(files), self._seen)
        self.context = _server_context(files)
        """For servers. Always the same object."""
        self.context.sni_callback = self._hand_over

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._made.context

    def renew(self) -> bool:
        """Look at the files; True if connections from now on get something else than before.

        Raises:
            TlsError: the files have changed and can't be used; what was in force stays. Raised once for one content.
        """
        seen = _read(self._files)
        if seen == self._seen:
            return False
        self._seen = seen
        self._made = _Made(_server_context(self._files), seen)
        return True

    @property
    def contents(self) -> list[bytes]:
        """Certificate, key and client CA (empty: none) in force, for servers that make contexts of their own. Another
        list after `renew` found other files."""
        return self._made.contents

    @property
    def asks_clients(self) -> bool:
        """Clients must show a certificate."""
        return self._files.client_ca is not None


class EngineTls:
    """The TLS side of connections to engines."""

    def __init__(self, files: EngineTlsFiles | None = None) -> None:
        """
        Raises:
            TlsError: the files can't be used.
        """
        self._files = files or EngineTlsFiles()
        if (self._files.certificate is None) != (self._files.key is None):
            raise TlsError("a certificate for engines needs its key, and a key its certificate: give both files")
        self._seen = _read(self._files)
        self._context, self._good = _engine_context(self._files), self._seen
        self._of_authority = lru_cache(AUTHORITIES)(self._trusting)

    def context(self, authority: str | None = None) -> ssl.SSLContext:
        """For the next connection, to an engine whose certificate `authority` (PEM) signed; None: to any other.

        Raises:
            TlsError: none can be made for this authority.
        """
        return self._context if authority is None else self._of_authority(authority)

    def _trusting(self, authority: str) -> ssl.SSLContext:
        """With the certificate that is in force, whatever is in the files by now."""
        context = _trusting(authority)
        files = self._files
        if files.certificate is not None and files.key is not None:
            _, certificate, key = self._good
            with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
                _load_chain(context, certificate_path, key_path)
        return context

    def renew(self) -> bool:
        """As `ServerTls.renew`."""
        seen = _read(self._files)
        if seen == self._seen:
            return False
        self._seen = seen
        self._context, self._good = _engine_context(self._files), seen
        self._of_authority.cache_clear()
        return True


def _read(files: TlsFiles | EngineTlsFiles) -> list[bytes]:
    """Contents in the order of the fields; a file that is not there counts as empty: no context can be made of it."""
    contents = []
    for path in msgspec.structs.astuple(files):
        try:
            contents.append(b"" if path is None else path.read_bytes())
        except OSError:
            contents.append(b"")
    return contents


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, files.certificate, files.key)
    if files.client_ca is not None:
        _load_ca(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        # A resumed session is not checked against the authority, so one from before a renewal would go on for hours.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def check_authority(text: str) -> None:
    """
    Raises:
        TlsError: it is not one or more certificates in PEM form.
    """
    _trusting(text)


def _trusting(authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise TlsError("who signs the engine's certificate is not known: expected certificates in PEM form") from error
    return context


def _engine_context(files: EngineTlsFiles) -> ssl.SSLContext:
    if files.ca is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_ca(context, files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.certificate is not None and files.key is not None:
        _load_chain(context, files.certificate, files.key)
    return context


@contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """OpenSSL's contexts take a certificate and its key from files only; this one is in memory and on no disk."""
    with os.fdopen(os.memfd_create("pem"), "wb", buffering=0) as file:
        file.write(content)
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_passphrase() -> str:
        raise TlsError(f"{key} is encrypted: store it without a passphrase, readable for the gateway only")

    _load(lambda: context.load_cert_chain(certificate, key, no_passphrase), (certificate, key), "a pair of certificate "
          "and key in PEM form")  # fmt: skip


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    _load(lambda: context.load_verify_locations(ca), (ca,), "certificates in PEM form")


def _load(load: Callable[[], None], paths: tuple[Path, ...], wanted: str) -> None:
    names = " and ".join(map(str, paths))
    try:
        load()
    except ssl.SSLError as error:
        raise TlsError(f"{names}: expected {wanted}: {error.reason or error}") from error
    except OSError as error:
        raise TlsError(f"{names}: cannot be read: {error.strerror or error}") from error
