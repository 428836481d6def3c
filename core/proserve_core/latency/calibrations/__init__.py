"""Latency models shipped as data: one JSON file per GPU and model, named gpu-model.

Each file names the source of its figures in `source`; docs/latency.md says how they were derived.
"""

from functools import cache
from importlib.resources import files

import msgspec

from proserve_core.batching.state import EngineLimits
from proserve_core.latency.model import LatencyModel


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Timing and limits of one engine: enough to emulate or simulate it."""

    name: str
    gpu: str
    model: str
    source: str
    """Where the figures come from, and under which licence."""
    latency: LatencyModel
    block_size: int
    """Tokens per KV block."""
    blocks: int
    """Usable device blocks."""
    max_sequences: int
    max_step_tokens: int

    def limits(self, *, blocks: int | None = None, max_sequences: int | None = None) -> EngineLimits:
        """The engine's limits, with other blocks or sequences where they are given."""
        return EngineLimits(
            block_size=self.block_size,
            blocks=blocks or self.blocks,
            max_sequences=max_sequences or self.max_sequences,
            max_step_tokens=self.max_step_tokens,
        )


def calibration_names() -> tuple[str, ...]:
    """Names that `load_calibration` knows, sorted."""
    names = (entry.name for entry in files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


@cache
def load_calibration(name: str) -> Calibration:
    """Load a shipped calibration.

    Raises:
        ValueError: no calibration has this name; the message lists those that exist.
    """
    known = calibration_names()
    if name not in known:
        raise ValueError(f"calibration {name!r} does not exist; known: {', '.join(known)}")
    return msgspec.json.decode(files(__package__).joinpath(f"{name}.json").read_bytes(), type=Calibration)
