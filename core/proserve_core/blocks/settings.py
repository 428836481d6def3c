"""What an engine does about the KV blocks of preempted requests. Each part can be switched off by itself."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from proserve_core.blocks.restore import Reload
from proserve_core.quantities import whole_units

FORM = (
    'a JSON object such as {"hostMemory": "4Gi", "offload": "Async", "reload": "Pipelined", "copyBudget": "Adaptive"}'
)

COPY_BLOCKS = "copyBlocks"
COPY_BLOCKS_ALONE = ("has no effect without copyBudget Fixed", "set that, or remove it")
"""What is wrong with it, and what to do."""
DEFAULT_COPY_BLOCKS = 64


class Offload(StrEnum):
    """When blocks are copied to the host."""

    ASYNC = "Async"
    """Ahead of preemption, behind compute; the rest when it happens, if the request can still earn: the step waits."""
    ON_PREEMPT = "OnPreempt"
    """All of a victim's blocks when it is preempted; the step waits for the copy."""
    OFF = "Off"
    """Never: who is preempted computes its context again."""


class CopyBudget(StrEnum):
    """How many blocks a step restores. What is left of a request is computed again."""

    ADAPTIVE = "Adaptive"
    """As many as make the step shortest."""
    FIXED = "Fixed"
    """At most `copyBlocks`, used up in the order in which requests are admitted."""
    UNLIMITED = "Unlimited"
    """All that are there."""


class KvOffloadError(ValueError):
    """Settings that cannot be; the message names the field, the value and the fix."""


class KvOffload(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The settings, in the form in which they are written."""

    host_memory: str
    """Quantity of host memory for blocks, of all workers of the engine together."""
    offload: Offload = Offload.ASYNC
    reload: Reload = Reload.PIPELINED
    copy_budget: CopyBudget = CopyBudget.ADAPTIVE
    copy_blocks: int = DEFAULT_COPY_BLOCKS
    """Blocks per step of a fixed budget."""

    def __post_init__(self) -> None:
        try:
            size = whole_units(self.host_memory)
        except ValueError:
            size = 0
        if size < 1:
            raise ValueError(f"hostMemory: write a quantity such as '512Mi' or '4Gi', got {self.host_memory!r}")
        if self.copy_blocks < 1:
            raise ValueError(f"copyBlocks: must be at least 1, got {self.copy_blocks}")

    @property
    def host_bytes(self) -> int:
        return whole_units(self.host_memory)

    def host_blocks(self, *, block_bytes: int) -> int:
        """KV blocks that the host's memory has room for.

        Raises:
            KvOffloadError: for none.
        """
        blocks = self.host_bytes // block_bytes
        if blocks < 1:
            raise KvOffloadError(
                f"kvOffload: hostMemory: {self.host_memory} is less than one KV block of {block_bytes} bytes: give more"
            )
        return blocks

    def to_mapping(self) -> dict[str, Any]:
        """As in JSON."""
        mapping: dict[str, Any] = msgspec.to_builtins(self)
        if self.copy_budget is not CopyBudget.FIXED:
            del mapping[COPY_BLOCKS]
        return mapping


def kv_offload(written: str | Mapping[str, Any]) -> KvOffload:
    """Read settings from JSON text or what it decodes to.

    Raises:
        KvOffloadError: they have another form.
    """
    try:
        fields = msgspec.json.decode(written) if isinstance(written, str) else dict(written)
        settings = msgspec.convert(fields, type=KvOffload)
    except msgspec.MsgspecError as error:
        raise KvOffloadError(f"kvOffload: {error}; write {FORM}") from error
    if COPY_BLOCKS in fields and settings.copy_budget is not CopyBudget.FIXED:
        raise KvOffloadError(f"kvOffload: {COPY_BLOCKS} {'; '.join(COPY_BLOCKS_ALONE)}")
    return settings
