"""What an engine does about the KV blocks of preempted requests. Each part can be switched off by itself."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from proserve_core.blocks.restore import Reload

FORM = (
    'a JSON object such as {"hostMemory": "4Gi", "offload": "Async", "reload": "Pipelined", "copyBudget": "Adaptive"}'
)
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Offload(StrEnum):
    """When blocks are copied to the host."""

    ASYNC = "Async"
    """Ahead of preemption, behind compute. What was not copied in time is computed again."""
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
    copy_blocks: int = 64
    """Blocks per step of a fixed budget."""

    def __post_init__(self) -> None:
        if _quantity(self.host_memory) is None:
            raise ValueError(f"hostMemory: write a quantity such as '512Mi' or '4Gi', got {self.host_memory!r}")
        if self.copy_blocks < 1:
            raise ValueError(f"copyBlocks: must be at least 1, got {self.copy_blocks}")

    @property
    def host_bytes(self) -> int:
        size = _quantity(self.host_memory)
        assert size is not None
        return size

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
        return mapping


def kv_offload(written: str | Mapping[str, Any]) -> KvOffload:
    """Read settings from JSON text or what it decodes to.

    Raises:
        KvOffloadError: they have another form.
    """
    try:
        if isinstance(written, str):
            return msgspec.json.decode(written, type=KvOffload)
        return msgspec.convert(dict(written), type=KvOffload)
    except msgspec.MsgspecError as error:
        raise KvOffloadError(f"kvOffload: {error}; write {FORM}") from error


def _quantity(text: str) -> int | None:
    """Bytes of a Kubernetes quantity; None if it is none, or 0."""
    number = text.rstrip("KMGTik")
    unit = text[len(number) :]
    if unit not in _UNITS or not number.isascii() or not number.isdecimal():
        return None
    return int(number) * _UNITS[unit] or None
