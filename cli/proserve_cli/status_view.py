"""What `proserve up` shows while it runs: one line per engine and the gain ratio of each class.

A live table where stderr is a terminal, plain lines every `PLAIN_EVERY_S` where it is a file or a pipe.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

LIVE_EVERY_S = 0.5
PLAIN_EVERY_S = 10.0


class EngineLine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. None: not known (no capacity endpoint, or no answer yet)."""

    name: str
    state: str
    policy: str | None
    running: int | None
    waiting: int | None
    free_blocks: int | None
    blocks: int | None
    restarts: int = 0


class ClassLine(msgspec.Struct, frozen=True, kw_only=True):
    """Gain of one class so far."""

    name: str
    requests: int
    tdg_ratio: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything shown."""

    engines: Sequence[EngineLine]
    classes: Sequence[ClassLine]


async def show_status(console: Console, read: Callable[[], Status]) -> None:
    """Show what `read` returns until cancelled."""
    if console.is_terminal:
        with Live(status_table(read()), console=console, refresh_per_second=4, transient=True) as live:
            while True:
                await asyncio.sleep(LIVE_EVERY_S)
                live.update(status_table(read()))
    while True:
        for line in status_lines(read()):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        await asyncio.sleep(PLAIN_EVERY_S)


def status_table(status: Status) -> RenderableType:
    """For a terminal."""
    engines = Table("engine", "state", "policy", box=None, pad_edge=False)
    for heading in ("running", "waiting", "free blocks"):
        engines.add_column(heading, justify="right")
    for engine in status.engines:
        style = "green" if engine.state == "ready" else "yellow" if engine.state == "starting" else "red"
        engines.add_row(
            engine.name, Text(_state(engine), style=style), engine.policy or "-", _number(engine.running),
            _number(engine.waiting), _blocks(engine),
        )  # fmt: skip
    gains = "   ".join(_gain(line) for line in status.classes)
    return Group(engines, Text(f"gain: {gains}"))


def status_lines(status: Status) -> list[str]:
    """For a log."""
    lines = [
        f"engine {engine.name}: {_state(engine)}, policy {engine.policy or '-'}, running {_number(engine.running)}, "
        f"waiting {_number(engine.waiting)}, free blocks {_blocks(engine)}"
        for engine in status.engines
    ]
    return [*lines, f"gain: {', '.join(_gain(line) for line in status.classes)}"]


def _state(engine: EngineLine) -> str:
    return engine.state if not engine.restarts else f"{engine.state} (restarted {engine.restarts}x)"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _blocks(engine: EngineLine) -> str:
    return f"{_number(engine.free_blocks)}/{_number(engine.blocks)}"


def _gain(line: ClassLine) -> str:
    if not line.requests:
        return f"{line.name} -"
    return f"{line.name} {line.tdg_ratio:.1%} of {line.requests} requests"
