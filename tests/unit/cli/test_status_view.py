"""The status that `proserve up` shows."""

import asyncio
import io

import pytest
from rich.console import Console

from proserve_cli.status_view import ClassLine, EngineLine, Status, show_status, status_lines, status_table

STATUS = Status(
    engines=[
        EngineLine(
            name="tiny-0", state="ready", policy="slide-batching", running=3, waiting=12, free_blocks=40, blocks=512
        ),
        EngineLine(
            name="tiny-1", state="starting", policy=None, running=None, waiting=None, free_blocks=None, blocks=None,
            restarts=2,
        ),
    ],
    classes=[ClassLine(name="high", requests=8, tdg_ratio=0.975), ClassLine(name="low", requests=0, tdg_ratio=1.0)],
)  # fmt: skip


def test_every_engine_and_class_has_a_line() -> None:
    assert status_lines(STATUS) == [
        "engine tiny-0: ready, policy slide-batching, running 3, waiting 12, free blocks 40/512",
        "engine tiny-1: starting (restarted 2x), policy -, running -, waiting -, free blocks -/-",
        "gain: high 97.5% of 8 requests, low -",
    ]


def test_the_table_says_the_same() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(status_table(STATUS))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("tiny-0", "ready", "40/512", "starting (restarted 2x)", "high 97.5% of 8 requests"):
        assert word in text


@pytest.mark.parametrize("terminal", [True, False])
async def test_status_is_shown_until_cancelled(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    task = asyncio.create_task(show_status(console, lambda: STATUS))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "tiny-0" in console.file.getvalue()  # type: ignore[attr-defined]
