"""`proserve engine` and `proserve emulate`: what their options about files come to."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mounted_secret import MountedSecret
from proserve_cli.main import app
from proserve_engine import serve
from proserve_engine.serve import Command
from proserve_engine.tls import TlsPair
from proserve_engine.vllm.settings import EngineSettings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[EngineSettings]:
    """Settings of the engines that were started."""
    found: list[EngineSettings] = []

    def serve_command(*_: object, settings: EngineSettings, **__: object) -> Command:
        found.append(settings)
        return Command([], {})

    monkeypatch.setattr(serve, "serve_command", serve_command)
    monkeypatch.setattr(serve, "run", lambda _: None)
    return found


def test_engine_follows_mounted_secrets_by_the_names_that_stay(started: list[EngineSettings], tmp_path: Path) -> None:
    MountedSecret(tmp_path, {"keys": b"k" * 20, "tls.crt": b"", "tls.key": b""})
    files = {name: str(tmp_path / name) for name in ("keys", "tls.crt", "tls.key")}
    given = ("--key-file", files["keys"], "--tls-cert", files["tls.crt"], "--tls-key", files["tls.key"])
    result = CliRunner().invoke(app, ["engine", "serve", "org/model", *given])
    assert result.exit_code == 0, result.output
    (settings,) = started
    assert settings.key_file == files["keys"]
    assert settings.tls == TlsPair(certificate=files["tls.crt"], key=files["tls.key"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("engine", "serve", "org/model", "--tls-cert", "a"), "--tls-cert and --tls-key need each other"),
        (
            ("emulate", "--calibration", "cpu-tiny", "--policy", "fcfs", "--tls-key", "a"),
            "--tls-cert and --tls-key need each other",
        ),
        (
            ("emulate", "--calibration", "cpu-tiny", "--policy", "fcfs", "--tls-cert", "/a", "--tls-key", "/b"),
            "--tls-cert, --tls-key: /a and /b: cannot be read: No such file or directory",
        ),
        (("engine", "drain", "--tls", "--host", "10.0.0.1"), "--tls checks no certificate, so it is for this machine"),
    ],
)
def test_certificate_that_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.output
