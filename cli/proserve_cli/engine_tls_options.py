"""Options of engines' own TLS."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proserve_cli.failures import wrong_usage

if TYPE_CHECKING:
    from proserve_engine.tls import TlsPair

CertOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert", help="All ports speak TLS: certificate chain, PEM, read again when it is renewed.", metavar="FILE"
    ),
]
KeyOption = Annotated[Path | None, typer.Option("--tls-key", help="Key of --tls-cert, PEM.", metavar="FILE")]


def tls_pair(certificate: Path | None, key: Path | None) -> "TlsPair | None":
    """What the engine serves with, by absolute paths."""
    from proserve_engine.tls import TlsPair

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise wrong_usage("--tls-cert and --tls-key need each other: give both files, or none")
    # Not resolved, as the key file.
    return TlsPair(certificate=str(certificate.absolute()), key=str(key.absolute()))
