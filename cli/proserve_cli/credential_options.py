"""Options of `proserve gateway` about certificates and keys, and what they make together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proserve_cli.failures import wrong_usage

if TYPE_CHECKING:
    from proserve_gateway.security.credentials import CredentialFiles


def _file(text: str, *, default: str = "") -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=text, metavar="FILE", show_default=default or False)
    return option


TlsCert = Annotated[Path | None, _file("Serve HTTP and gRPC with TLS: certificate chain, PEM.")]
TlsKey = Annotated[Path | None, _file("Key of --tls-cert, PEM.")]
TlsClientCa = Annotated[Path | None, _file("Clients must show a certificate that one of these signed, PEM.")]
EngineTlsCa = Annotated[Path | None, _file("Who signs certificates of https:// engines, PEM.", default="the system's")]
EngineTlsCert = Annotated[Path | None, _file("Certificate that the gateway shows to https:// engines, PEM.")]
EngineTlsKey = Annotated[Path | None, _file("Key of --engine-tls-cert, PEM.")]
AdminKeyFile = Annotated[Path | None, _file("Keys of the admin port, one a line; probes need none.")]
EngineKeyFile = Annotated[
    Path | None, _file("Keys of engines that were started for pools, one a line; the first is sent.")
]


def credential_files(
    *,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    engine_tls_ca: Path | None,
    engine_tls_cert: Path | None,
    engine_tls_key: Path | None,
    admin_key_file: Path | None,
    engine_key_file: Path | None,
) -> "CredentialFiles":
    """What the gateway is told; exit code 2 where one option lacks another or its file can't be read."""
    from proserve_gateway.security.credentials import CredentialFiles
    from proserve_gateway.security.tls import EngineTlsFiles, TlsFiles

    for one, other, given in (
        ("--tls-cert", "--tls-key", (tls_cert, tls_key)),
        ("--engine-tls-cert", "--engine-tls-key", (engine_tls_cert, engine_tls_key)),
    ):
        if (given[0] is None) != (given[1] is None):
            raise wrong_usage(f"{one} and {other} belong together: give both or none")
    if tls_client_ca is not None and tls_cert is None:
        raise wrong_usage("--tls-client-ca asks clients for certificates, which needs --tls-cert and --tls-key")
    for option, file in (
        ("--tls-cert", tls_cert),
        ("--tls-key", tls_key),
        ("--tls-client-ca", tls_client_ca),
        ("--engine-tls-ca", engine_tls_ca),
        ("--engine-tls-cert", engine_tls_cert),
        ("--engine-tls-key", engine_tls_key),
        ("--admin-key-file", admin_key_file),
        ("--engine-key-file", engine_key_file),
    ):
        if file is not None:
            _check_readable(option, file)
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = TlsFiles(certificate=tls_cert, key=tls_key, client_ca=tls_client_ca)
    return CredentialFiles(
        tls=tls,
        engine_tls=EngineTlsFiles(ca=engine_tls_ca, certificate=engine_tls_cert, key=engine_tls_key),
        admin_keys=admin_key_file,
        engine_keys=engine_key_file,
    )


def _check_readable(option: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise wrong_usage(f"{option} {file}: cannot be read: {error.strerror}") from error
