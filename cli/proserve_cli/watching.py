"""A view of a gateway, shown once or, with `--watch`, again and again until Ctrl-C."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from proserve_cli.admin_client import AdminClient, AdminError, Format
from proserve_cli.failures import failed

EVERY_S = 2.0

T = TypeVar("T")

WatchOption = Annotated[bool, typer.Option("--watch", "-w", help=f"Show it anew every {EVERY_S:g} s until Ctrl-C.")]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the gateway."""

    table: RenderableType
    data: bytes
    """The same as one line of JSON."""


def show(
    client: AdminClient, path: str, kind: type[T], table: Callable[[T], RenderableType], *, output: Format, watch: bool
) -> None:
    """Show what the gateway answers to `GET path`, read as `kind`, to stdout. With `watch` a gateway that does not
    answer is waited for.

    Raises:
        typer.Exit: code 1 if the gateway does not answer at first.
    """

    async def look() -> View:
        body = await client.body(path)
        return View(table=table(client.read(body, kind)), data=body)

    console = Console(markup=False, highlight=False)
    try:
        asyncio.run(_watch(look, output, console) if watch else _once(look, output, console))
    except AdminError as error:
        raise failed(error) from error
    except KeyboardInterrupt:
        return


async def _once(look: Callable[[], Awaitable[View]], output: Format, console: Console) -> None:
    _print(await look(), output, console)


async def _watch(look: Callable[[], Awaitable[View]], output: Format, console: Console) -> None:
    view = await look()
    live = Live(view.table, console=console, auto_refresh=False, screen=True)
    on_screen = output is Format.TABLE and console.is_terminal
    with live if on_screen else contextlib.nullcontext():
        while True:
            if on_screen:
                live.update(view.table, refresh=True)
            else:
                _print(view, output, console)
            await asyncio.sleep(EVERY_S)
            view = await _again(look, view)


async def _again(look: Callable[[], Awaitable[View]], before: View) -> View:
    try:
        return await look()
    except AdminError as error:
        note = Text(f"{error}; what follows is old", style="red")
        data = msgspec.json.encode({"error": str(error)})
        # Of a table that already has a note on top, only what is below it.
        table = before.table.renderables[-1] if isinstance(before.table, _Old) else before.table
        return View(table=_Old(note, table), data=data)


class _Old(Group):
    """A view that could not be made anew."""


def _print(view: View, output: Format, console: Console) -> None:
    if output is Format.JSON:
        console.out(view.data.decode(), highlight=False)
    else:
        console.print(view.table)
