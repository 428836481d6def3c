"""Gain per class as a table: how much of what could be earned was, lately and over time, and where the rest went."""

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from proserve_core.gain_status import GainReply, GainStatus

ALL = "all"
BARS = " ▁▂▃▄▅▆▇█"
POINTS = 15
"""Of the curve over time."""


def gain_table(reply: GainReply) -> RenderableType:
    """For a terminal of 80 columns."""
    gains = Table(Column("class", no_wrap=True), box=None, pad_edge=False)
    for heading in (*reply.windows, "SLO met", "requests"):
        gains.add_column(heading, justify="right")
    gains.add_column("last hour", no_wrap=True)
    losses = Table(Column("class", no_wrap=True), "lost to", box=None, pad_edge=False)
    for name, whole in reply.windows.get(ALL, {}).items():
        gains.add_row(
            name,
            *[_ratio(classes[name]) for classes in reply.windows.values()],
            _percent(whole.slo_attainment) if whole.requests else Text("-"),
            str(whole.requests),
            _curve(reply, name),
        )
        losses.add_row(name, _causes(whole))
    return Group(
        Text("gain earned, of what could be earned by requests that ended in the last ...", style="dim"),
        gains,
        Text(),
        Text("since the gateway started", style="dim"),
        losses,
    )


def _ratio(status: GainStatus) -> Text:
    return _percent(status.tdg_ratio) if status.earnable else Text("-")


def _percent(share: float) -> Text:
    return Text(f"{share:.1%}", style="green" if share >= 0.9 else "yellow" if share >= 0.5 else "red")


def _causes(status: GainStatus) -> str:
    if not status.lost:
        return "-"
    worst = sorted(status.lost.items(), key=lambda one: -one[1])
    return ", ".join(f"{cause} {gain / status.earnable:.1%}" for cause, gain in worst if gain > 0) or "-"


def _curve(reply: GainReply, name: str) -> str:
    """Share of gain earned, in `POINTS` parts of the time that the reply covers; blank: nothing ended then."""
    series = reply.series.get(name)
    if series is None or not series.earnable:
        return "-"
    width = -(-len(series.earnable) // POINTS)
    marks = []
    for at in range(0, len(series.earnable), width):
        earned, earnable = sum(series.earned[at : at + width]), sum(series.earnable[at : at + width])
        marks.append(BARS[1 + round(earned / earnable * (len(BARS) - 2))] if earnable > 0 else BARS[0])
    return "".join(marks)
