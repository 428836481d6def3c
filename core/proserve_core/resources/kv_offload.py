"""`spec.engine.kvOffload` of an EnginePool: the settings of `blocks.settings` as fields of a resource."""

from collections.abc import Mapping

from proserve_core.blocks.restore import Reload
from proserve_core.blocks.settings import COPY_BLOCKS, COPY_BLOCKS_ALONE, DEFAULT_COPY_BLOCKS, CopyBudget, Offload
from proserve_core.resources.fields import Field, Integer, Object, Quantity, Rule, Text
from proserve_core.resources.kinds import Reading

KV_OFFLOAD_PATH = "spec.engine.kvOffload"

KV_OFFLOAD = Object(
    fields=(
        Field(
            name="hostMemory",
            type=Quantity(minimum="1", maximum="1Pi"),
            required=True,
            description="Host memory for KV blocks that one engine gets, such as `16Gi`. docs/blocks.md says how much.",
        ),
        Field(
            name="offload",
            type=Text(choices=tuple(Offload)),
            default=Offload.ASYNC,
            description="When blocks are copied to the host. Async: ahead of preemption, behind compute. OnPreempt: "
            "all of a victim's, while the step waits. Off: never.",
        ),
        Field(
            name="reload",
            type=Text(choices=tuple(Reload)),
            default=Reload.PIPELINED,
            description="How they come back. Pipelined: a layer computes while the next one arrives. Blocking: "
            "before the step computes anything.",
        ),
        Field(
            name="copyBudget",
            type=Text(choices=tuple(CopyBudget)),
            default=CopyBudget.ADAPTIVE,
            description="How many blocks a step restores; the rest is computed again. Adaptive: those that make it "
            "shortest. Fixed: at most `copyBlocks`. Unlimited: all.",
        ),
        Field(
            name=COPY_BLOCKS,
            type=Integer(minimum=1),
            description="Most blocks that a step restores. Only with copyBudget Fixed; without it: "
            f"{DEFAULT_COPY_BLOCKS}.",
        ),
    ),
    rules=(
        Rule(
            expression=f"!has(self.{COPY_BLOCKS}) || self.copyBudget == '{CopyBudget.FIXED}'",
            message=f"{COPY_BLOCKS} {COPY_BLOCKS_ALONE[0]}; {COPY_BLOCKS_ALONE[1]}",
            field=f".{COPY_BLOCKS}",
        ),
    ),
)


def check_kv_offload(reading: Reading, fields: Mapping[str, str]) -> None:
    """Check what types and ranges do not say; `fields` without those that are wrong."""
    if COPY_BLOCKS in fields and fields.get("copyBudget", CopyBudget.FIXED) != CopyBudget.FIXED:
        reading.error(f"{KV_OFFLOAD_PATH}.{COPY_BLOCKS}", *COPY_BLOCKS_ALONE)
