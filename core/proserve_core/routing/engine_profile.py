"""Speed and size of an engine, as its snapshot tells or, without one, as the rest of the fleet suggests."""

from collections.abc import Iterable

import msgspec

from proserve_core.capacity import CapacitySnapshot
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import load_calibration
from proserve_core.routing.state import EngineView

NOMINAL_CALIBRATION = "a100-llama-3.1-8b"
"""Stands for engines without a snapshot where no engine has one: a slower GPU of today, to be on the safe side."""


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Speed and size of an engine."""

    latency: LatencyModel
    block_size: int
    blocks: int
    max_sequences: int
    max_step_tokens: int

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // (self.block_size or 1))

    def prefill_s(self, tokens: int, cached: int = 0) -> float:
        """Engine time of a prefill, with the constant of each step it needs."""
        latency = self.latency
        steps = -(-tokens // (self.max_step_tokens or 1))
        return latency.prefill_s(tokens, cached) + steps * (latency.host_s + latency.linear_base_s)


def snapshot_profile(snapshot: CapacitySnapshot) -> EngineProfile:
    """As the engine itself says."""
    return EngineProfile(
        latency=snapshot.latency,
        block_size=snapshot.block_size,
        blocks=snapshot.blocks,
        max_sequences=snapshot.max_sequences,
        max_step_tokens=snapshot.max_step_tokens,
    )


def nominal_profile(engines: Iterable[EngineView]) -> EngineProfile:
    """The fleet's median engine by prefill speed (the slower of two), or the nominal calibration."""
    profiles = [snapshot_profile(view.snapshot) for view in engines if view.snapshot is not None]
    if profiles:
        profiles.sort(key=lambda profile: profile.prefill_s(1024))
        return profiles[len(profiles) // 2]
    calibration = load_calibration(NOMINAL_CALIBRATION)
    return EngineProfile(
        latency=calibration.latency,
        block_size=calibration.block_size,
        blocks=calibration.blocks,
        max_sequences=calibration.max_sequences,
        max_step_tokens=calibration.max_step_tokens,
    )
