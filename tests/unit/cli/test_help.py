"""`--help` of every command says all that its options say of themselves."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from proserve_cli.main import app


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, part in getattr(command, "commands", {}).items():
        yield from _commands(part, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def shown(text: str) -> str:
    """Without the frame and the line breaks of the help, and without what keeps a bracket from being markup."""
    return " ".join(text.replace("│", " ").replace("\\[", "[").split())


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "proserve")
def test_help_shows_each_option_whole(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "1000", "TERMINAL_WIDTH": "1000"})
    assert done.exit_code == 0
    page = shown(done.output)
    for option in COMMANDS[path].params:
        assert shown(option.help or "") in page
        if isinstance(option.show_default, str):
            assert f"[default: ({option.show_default})]" in page
