"""A gateway's `/status` for a terminal."""

import msgspec
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from proserve_core.gain_status import GainStatus

GOOD, WAITING = "ready", ("starting", "draining", "half_open")


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. None: not known."""

    name: str
    state: str
    in_flight: int
    poll_age_s: float | None = None
    running: int | None = None
    waiting: int | None = None
    blocks: int | None = None
    free_blocks: int | None = None
    policy: str | None = None
    last_error: str = ""


class HeadroomRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a class may count on in a pool, and what it uses: shares of engine time."""

    priority_class: str
    mode: str | None = None
    held: float
    used: float
    lent: float
    borrowed: float


class GatewayReply(msgspec.Struct, frozen=True, kw_only=True):
    """The part of `/status` that is shown."""

    ready: bool
    missing: list[str]
    configuration_error: str = ""
    engines: list[EngineRow]
    classes: dict[str, GainStatus]
    headroom: dict[str, list[HeadroomRow]] = {}


def gateway_table(reply: GatewayReply) -> RenderableType:
    """Readiness, engines, classes."""
    head = Text("ready", style="green") if reply.ready else Text(f"not ready: {'; '.join(reply.missing)}", style="red")
    refused = f"the newest configuration is refused, an older one is in force: {reply.configuration_error}"
    configuration = [Text(refused, style="red")] if reply.configuration_error else []
    errors = [Text(f"{row.name}: {row.last_error}", style="red") for row in reply.engines if row.last_error]
    headroom: list[RenderableType] = [Text(), _headroom(reply.headroom)] if reply.headroom else []
    return Group(head, *configuration, _engines(reply.engines), *errors, Text(), _classes(reply.classes), *headroom)


def _engines(rows: list[EngineRow]) -> Table:
    names = [Column(heading, no_wrap=True) for heading in ("engine", "state", "policy")]
    table = Table(*names, box=None, pad_edge=False)
    for heading in ("sent", "running", "waiting", "KV used", "heard from"):
        table.add_column(heading, justify="right")
    for row in rows:
        style = "green" if row.state == GOOD else "yellow" if row.state in WAITING else "red"
        table.add_row(
            row.name, Text(row.state, style=style), row.policy or "-", str(row.in_flight),
            _number(row.running), _number(row.waiting), _kv(row),
            "-" if row.poll_age_s is None else f"{row.poll_age_s:.1f} s ago",
        )  # fmt: skip
    return table


def _classes(classes: dict[str, GainStatus]) -> Table:
    table = Table(Column("class", no_wrap=True), box=None, pad_edge=False)
    for heading in ("requests", "tokens", "gain", "SLO met"):
        table.add_column(heading, justify="right")
    for name, gain in classes.items():
        some = gain.requests > 0
        table.add_row(
            name, str(gain.requests), str(gain.tokens), f"{gain.tdg_ratio:.1%}" if some else "-",
            f"{gain.slo_attainment:.1%}" if some else "-",
        )  # fmt: skip
    return table


def _headroom(pools: dict[str, list[HeadroomRow]]) -> Table:
    table = Table("pool", Column("class", no_wrap=True), "headroom", box=None, pad_edge=False)
    for heading in ("held", "used", "lent", "borrowed"):
        table.add_column(heading, justify="right")
    for pool, rows in pools.items():
        for row in rows:
            shares = (row.held, row.used, row.lent, row.borrowed)
            table.add_row(pool, row.priority_class, row.mode or "-", *(f"{share:.0%}" for share in shares))
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _kv(row: EngineRow) -> str:
    if row.blocks is None or row.free_blocks is None or not row.blocks:
        return "-"
    return f"{1 - row.free_blocks / row.blocks:.0%}"
