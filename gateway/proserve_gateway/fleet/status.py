"""The fleet as people and scripts see it: one row per engine."""

from typing import TYPE_CHECKING

import msgspec

from proserve_gateway.fleet.health import EngineState

if TYPE_CHECKING:
    from proserve_gateway.fleet.engine import Engine


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What people and scripts see of an engine."""

    name: str
    pool: str
    url: str
    capacity_url: str | None
    """Root of its capacity server; None: it has none."""
    state: EngineState
    in_flight: int
    """Own requests there."""
    poll_age_s: float | None
    """Since the last answered poll; on an idle engine up to the long poll's wait."""
    running: int | None
    waiting: int | None
    blocks: int | None
    free_blocks: int | None
    policy: str | None
    latency_error: float | None
    last_error: str


def engine_status(engine: "Engine", now_s: float) -> EngineStatus:
    """The row of one engine."""
    snapshot = engine.view.snapshot
    state = engine.health.state(now_s)
    return EngineStatus(
        name=engine.target.name,
        pool=engine.target.pool,
        url=engine.target.base_url,
        capacity_url=engine.target.capacity_url,
        state=state,
        in_flight=len(engine.view.dispatched),
        poll_age_s=None if engine.polled_s is None else now_s - engine.polled_s,
        running=snapshot.running if snapshot else None,
        waiting=snapshot.waiting if snapshot else None,
        blocks=snapshot.blocks if snapshot else None,
        free_blocks=snapshot.free_blocks if snapshot else None,
        policy=snapshot.policy if snapshot else None,
        latency_error=snapshot.latency_error if snapshot else None,
        last_error="" if state is EngineState.READY else engine.last_error,
    )
