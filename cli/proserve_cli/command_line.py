"""What is wrong with a command line, said like everything else that the user can mend: one line and exit code 2.

Typer shows a usage text and a box of several lines instead, which nobody finds in a log.
"""

import sys
from collections.abc import Sequence
from typing import Any, cast

import typer
from typer.core import TyperGroup

from proserve_cli.failures import USAGE, wrong_usage

_UsageError = cast("type[Exception]", typer.BadParameter.__base__)
"""What Typer raises for options, arguments and commands alike; it exports only this kind of it."""


class OneLineGroup(TyperGroup):
    """The root command: whatever is wrong in its own or a command's arguments is one line."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **options: Any) -> Any:
        if not options.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **options)
        try:
            code = super().main(args, prog_name, standalone_mode=False, **options)
        except _UsageError as error:
            # Without arguments Typer shows the help, and the error that ends it says nothing.
            code = wrong_usage(_line(error)).exit_code if str(error) else USAGE
        sys.exit(code)


def _line(error: Any) -> str:
    """The message, the value that was given, and where to read on."""
    message = " ".join(error.format_message().split()).rstrip(".")
    # Where Typer has Pydantic check a value, the message may not say which value that was.
    details = getattr(error.__cause__, "errors", None)
    given = repr(details()[0]["input"]) if details is not None else ""
    if given not in message:
        message += f", got {given}"
    return f"{message}; see '{error.ctx.command_path} --help'" if error.ctx else message
