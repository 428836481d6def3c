"""Certificates and keys on the command line."""

from pathlib import Path
from typing import Any

import pytest
import typer

from proserve_cli.credential_options import credential_files

CERT, KEY, CA = Path("tls.crt"), Path("tls.key"), Path("ca.crt")
NONE: dict[str, Any] = dict.fromkeys(
    (
        "tls_cert", "tls_key", "tls_client_ca", "engine_tls_ca", "engine_tls_cert", "engine_tls_key",
        "admin_key_file", "engine_key_file",
    )
)  # fmt: skip


def test_nothing_is_asked_for_by_default() -> None:
    files = credential_files(**NONE)
    assert (files.tls, files.engine_tls.ca, files.admin_keys, files.engine_keys) == (None, None, None, None)


def test_files_reach_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (CERT, KEY, CA):
        file.touch()
    files = credential_files(**NONE | {"tls_cert": CERT, "tls_key": KEY, "tls_client_ca": CA, "admin_key_file": KEY})
    assert files.tls is not None
    assert (files.tls.certificate, files.tls.key, files.tls.client_ca, files.admin_keys) == (CERT, KEY, CA, KEY)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_cert": CERT}, "--tls-cert and --tls-key belong together"),
        ({"tls_key": KEY}, "--tls-cert and --tls-key belong together"),
        ({"engine_tls_key": KEY}, "--engine-tls-cert and --engine-tls-key belong together"),
        ({"tls_client_ca": CA}, "--tls-client-ca asks clients for certificates, which needs --tls-cert"),
    ],
)
def test_half_of_what_belongs_together_is_refused(
    given: dict[str, Path], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        credential_files(**NONE | given)
    assert caught.value.exit_code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["tls_client_ca", "engine_tls_ca", "engine_tls_key", "admin_key_file", "engine_key_file"]
)
def test_a_file_that_cannot_be_read_is_named_with_its_option(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    there.touch()
    given = NONE | {"tls_cert": there, "tls_key": there, "engine_tls_cert": there, "engine_tls_key": there}
    with pytest.raises(typer.Exit) as caught:
        credential_files(**given | {option: tmp_path / "missing"})
    assert caught.value.exit_code == 2
    message = f"--{option.replace('_', '-')} {tmp_path / 'missing'}: cannot be read: No such file or directory"
    assert message in capsys.readouterr().err
