"""How commands fail: one clear message on stderr and an exit code, never a traceback for what the user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED = 1
USAGE = 2


def failed(message: object) -> typer.Exit:
    """To raise when the command could not do its work."""
    return _exit(message, FAILED)


def wrong_usage(message: object) -> typer.Exit:
    """To raise when options, files or the installation must change first."""
    return _exit(message, USAGE)


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around imports of a part whose dependencies are in an extra: says which one is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        # A missing module of our own is a broken installation and not a matter of extras.
        if (error.name or "proserve").startswith("proserve"):
            raise
        raise wrong_usage(
            f"this command needs the module {error.name!r}, which is not installed: pip install 'proserve[{extra}]'"
        ) from error


def _exit(message: object, code: int) -> typer.Exit:
    typer.echo(f"proserve: {message}", err=True)
    return typer.Exit(code)
