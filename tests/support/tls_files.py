"""Certificates for tests (tests/data/tls) in a folder where they can be renewed."""

import shutil
import ssl
from pathlib import Path

from proserve_gateway.security.tls import EngineTlsFiles, TlsFiles

DATA = Path(__file__).resolve().parents[1] / "data" / "tls"


class TlsFolder:
    """Files of a server, as a mounted Secret has them."""

    def __init__(self, folder: Path, authority: str = "first") -> None:
        self.certificate, self.key, self.ca = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
        self.install(authority)

    def install(self, authority: str) -> None:
        """The files become those of this authority."""
        shutil.copy(DATA / f"{authority}-server.pem", self.certificate)
        self.install_key(authority)
        shutil.copy(DATA / f"{authority}-ca.pem", self.ca)

    def install_key(self, authority: str) -> None:
        """Only the key."""
        shutil.copy(DATA / f"{authority}-server.key", self.key)

    def files(self, *, client_ca: bool = False) -> TlsFiles:
        return TlsFiles(certificate=self.certificate, key=self.key, client_ca=self.ca if client_ca else None)


def ca(authority: str) -> bytes:
    return (DATA / f"{authority}-ca.pem").read_bytes()


def client_pair(authority: str) -> tuple[Path, Path]:
    return DATA / f"{authority}-client.pem", DATA / f"{authority}-client.key"


def client_pem(authority: str) -> tuple[bytes, bytes]:
    certificate, key = client_pair(authority)
    return certificate.read_bytes(), key.read_bytes()


def server_entries(authority: str) -> dict[str, bytes]:
    """Of a server's Secret of type kubernetes.io/tls."""
    files = {"tls.crt": f"{authority}-server.pem", "tls.key": f"{authority}-server.key"}
    return {entry: (DATA / file).read_bytes() for entry, file in files.items()}


def client_context(trusts: str, shows: str | None = None) -> ssl.SSLContext:
    """Of a client that trusts one authority and shows another's certificate."""
    context = ssl.create_default_context(cadata=ca(trusts).decode())
    if shows is not None:
        context.load_cert_chain(*client_pair(shows))
    return context


def server_context(authority: str, *, asks_for: str | None = None) -> ssl.SSLContext:
    """Of an engine, which may ask for certificates of an authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(DATA / f"{authority}-server.pem", DATA / f"{authority}-server.key")
    if asks_for is not None:
        context.load_verify_locations(cadata=ca(asks_for).decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def engine_files(ca_of: str, shows: str | None = None) -> EngineTlsFiles:
    certificate, key = client_pair(shows) if shows is not None else (None, None)
    return EngineTlsFiles(ca=DATA / f"{ca_of}-ca.pem", certificate=certificate, key=key)
