"""Engines serve with certificates that are renewed while they run, as mounted Secrets are."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mounted_secret import MountedSecret
from proserve_core.batching.explain import DecisionLog
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.capacity_server import CapacityApp, CapacityServer
from proserve_engine.tls import ServingTls, TlsError, TlsPair
from tls_files import DATA, client_context, server_entries


class Served:
    """A capacity server with TLS from a mounted Secret."""

    def __init__(self, folder: Path) -> None:
        self.secret = MountedSecret(folder, server_entries("first"))
        self.now_s = 0.0
        pair = TlsPair(certificate=str(folder / "tls.crt"), key=str(folder / "tls.key"))
        tls = ServingTls(pair, clock=lambda: self.now_s)
        app = CapacityApp(CapacityBoard(), DecisionLog())
        self.server = CapacityServer(app, host="127.0.0.1", port=0, tls=tls.context)
        self.server.start()

    def trusted_by(self, authority: str) -> bool:
        """Whether a client that trusts one authority gets an answer."""
        url = f"https://localhost:{self.server.port}/healthz"
        try:
            with urllib.request.urlopen(url, context=client_context(authority), timeout=60) as reply:
                return bool(reply.status == 200)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLCertVerificationError):
                raise
            return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.server.stop()


def test_renewed_certificate_is_served_each_time_that_it_is_renewed(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for number, authority in enumerate(("first", "second", "first", "second")):
        served.secret.replace(server_entries(authority))
        served.now_s = 2.0 * number
        assert served.trusted_by(authority)
        assert not served.trusted_by("second" if authority == "first" else "first")
    # What does not fit together changes nothing.
    served.secret.replace(server_entries("second") | {"tls.key": server_entries("first")["tls.key"]})
    served.now_s = 20.0
    assert served.trusted_by("second")
    assert "the engine's certificate stays as it was" in caplog.text


def test_plain_text_is_not_answered(served: Served) -> None:
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://localhost:{served.server.port}/healthz", timeout=60)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tls.key": None}, "cannot be read: No such file"),
        ({"tls.crt": b"nonsense"}, "expected a pair of certificate and key in PEM form"),
        (
            {"tls.key": (DATA / "first-server-encrypted.key").read_bytes()},
            "is encrypted: store it without a passphrase",
        ),
    ],
)
def test_files_that_cannot_be_used_end_the_start(tmp_path: Path, changed: dict[str, bytes | None], said: str) -> None:
    kept = {name: content for name, content in (server_entries("first") | changed).items() if content is not None}
    MountedSecret(tmp_path, kept)
    with pytest.raises(TlsError, match=said):
        ServingTls(TlsPair(certificate=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key")))
