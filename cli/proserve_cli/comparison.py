"""What commands share that compare policies on running engines: which policies, and how the result is shown."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import typer

from proserve_cli.failures import failed, wrong_usage

Result = TypeVar("Result")


def policy_names(policies: str, *, example: str) -> list[str]:
    """The batching policies of `--policies A,B`, each once; exit code 2 if there is none or one does not exist."""
    from proserve_core.batching.registry import PolicyError, make_policy

    names = _names(policies, example)
    try:
        for name in names:
            make_policy(name)
    except PolicyError as error:
        raise wrong_usage(error) from error
    return names


def router_names(policies: str, *, example: str) -> list[str]:
    """The same for routing policies."""
    from proserve_core.routing import make_room

    names = _names(policies, example)
    try:
        for name in names:
            make_room(name)
    except ValueError as error:
        raise wrong_usage(error) from error
    return names


def _names(policies: str, example: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in policies.split(",") if name.strip()))
    if not names:
        raise wrong_usage(f"--policies: expected at least one name, such as {example}; got {policies!r}")
    return names


def show(result: Result | None, *, json: bool, table: Callable[[Result], None], logs: Path) -> None:
    """Print what was measured, None if a signal came first. The engines' logs are no longer needed."""
    shutil.rmtree(logs, ignore_errors=True)
    if result is None:
        raise failed("stopped by a signal")
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    else:
        table(result)
