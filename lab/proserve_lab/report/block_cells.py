"""The cells of the report on KV blocks: parts switched off one by one, where blocks are short.

How short is derived: an engine has a quarter of the blocks that serving every request just in time takes on average at
saturation, a token per TPOT from its TTFT on, but room for the longest request and a quarter more. Engines that are
ahead of deadlines hold a request for less time than that: with half of the blocks nobody is preempted at low load.
"""

import math
from collections.abc import Iterator
from functools import cache

import msgspec
import numpy as np

from proserve_core.batching import EngineLimits
from proserve_core.blocks import KV_LAYOUTS, LinkModel
from proserve_core.blocks.returns import AdaptiveRule, ranked, shortest
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_core.kv_host import KvHost, host_of
from proserve_lab.report.cells import OURS, Cell
from proserve_lab.report.scenarios import BASE, calibration_of, requests_of
from proserve_lab.simulation.workload import SimulatedRequest

GPUS = ("h100", "a100")
ROWS = {"azure-conv": 400, "mooncake-conversation": 200, "r1": 200}
"""Workloads, and how many of their first requests are simulated."""
LOADS = {"low": 0.5, "medium": 0.8, "high": 1.2}
"""Times saturation."""
POLICIES = ("slide-batching", OURS)
SHORTAGE = 0.25
LONGEST_ROOM = 1.25
DEVICE_TIMES = 4.0
"""Host memory over the device's KV memory in the ablation, as xLLM's documentation has it."""
SWEEP = (0.0625, 0.125, 0.25, 0.5, 1.0)
"""The same, where it is varied."""
LINKS = (15e9, 5e9)
"""Bytes per second of slower links: the paper's engine reaches 15 to 18 GB/s."""
FULL, RECOMPUTE, NO_ASYNC, FIXED = "full", "recompute", "no async", "fixed budget"


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts are on."""

    offload: Offload = Offload.ASYNC
    copy_budget: CopyBudget = CopyBudget.ADAPTIVE
    adaptive: AdaptiveRule = shortest
    by_gain: bool = False
    """Who comes back is chosen by gain, too."""
    link: float = 0.0
    """Bytes per second each way; 0: the GPU's."""
    device_times: float = DEVICE_TIMES


def on_link(variant: str, link: float) -> str:
    """Name of a variant on a slower link."""
    return f"{variant}, {link / 1e9:g} GB/s"


VARIANTS: dict[str, Variant | None] = {
    FULL: Variant(),
    RECOMPUTE: None,
    NO_ASYNC: Variant(offload=Offload.ON_PREEMPT),
    FIXED: Variant(copy_budget=CopyBudget.FIXED),
    "unlimited": Variant(copy_budget=CopyBudget.UNLIMITED),
    "adaptive by rank": Variant(adaptive=ranked),
    "adaptive by gain": Variant(by_gain=True),
    **{on_link(FULL, link): Variant(link=link) for link in LINKS},
    **{on_link(NO_ASYNC, link): Variant(link=link, offload=Offload.ON_PREEMPT) for link in LINKS},
    **{f"host {times:g}x": Variant(device_times=times) for times in SWEEP},
}
"""None: nothing is kept."""
ABLATION = (FULL, RECOMPUTE, NO_ASYNC, FIXED, "unlimited", "adaptive by rank", "adaptive by gain")


def block_cells() -> list[Cell]:
    """All cells, in the order in which they are run."""
    first, second = POLICIES
    return [
        *_ablation("h100", first),
        *_ablation("h100", second),
        *_ablation("a100", first),
        *_sweep(),
        *_ablation("a100", second),
        *_links(),
    ]


def _ablation(gpu: str, policy: str) -> Iterator[Cell]:
    for workload in ROWS:
        for load in LOADS.values():
            for variant in ABLATION:
                yield Cell(scenario=gpu, workload=workload, load=load, policy=policy, variant=variant)


def _sweep() -> Iterator[Cell]:
    for workload in ROWS:
        for policy in POLICIES:
            for times in SWEEP:
                yield Cell(
                    scenario="h100", workload=workload, load=LOADS["medium"], policy=policy, variant=f"host {times:g}x"
                )


def _links() -> Iterator[Cell]:
    for workload in ROWS:
        for policy in POLICIES:
            for link in LINKS:
                for variant in (FULL, NO_ASYNC):
                    name = on_link(variant, link)
                    yield Cell(scenario="h100", workload=workload, load=LOADS["medium"], policy=policy, variant=name)


def requests_for(cell: Cell) -> tuple[SimulatedRequest, ...]:
    """The cell's requests, in order of arrival."""
    return requests_of(cell.scenario, cell.workload, cell.load)[: ROWS[cell.workload]]


def short_limits(cell: Cell) -> EngineLimits:
    """The cell's engine, with too few blocks."""
    return calibration_of(cell.scenario).limits(blocks=short_blocks(cell.scenario, cell.workload))


@cache
def short_blocks(gpu: str, workload: str) -> int:
    """Blocks of the engine, see above."""
    requests = requests_of(gpu, workload, 1.0)[: ROWS[workload]]
    prompts = np.array([request.prompt_tokens for request in requests], dtype=float)
    outputs = np.array([request.output_tokens for request in requests], dtype=float)
    arrivals_s = np.array([request.arrival_s for request in requests])
    moments_s = np.linspace(arrivals_s[0], arrivals_s[-1], 1000)
    held = 0.0
    for now_s in moments_s:
        emitted = (now_s - arrivals_s - BASE.ttft_s) / BASE.tpot_s
        here = (arrivals_s <= now_s) & (emitted < outputs)
        held += float((prompts + np.maximum(0.0, emitted))[here].sum()) / len(moments_s)
    size = calibration_of(gpu).block_size
    return math.ceil(max(SHORTAGE * held, LONGEST_ROOM * float((prompts + outputs).max())) / size)


def kv_host_of(cell: Cell) -> KvHost | None:
    """The cell's host memory."""
    variant = VARIANTS[cell.variant]
    if variant is None:
        return None
    calibration = calibration_of(cell.scenario)
    block_bytes = KV_LAYOUTS[calibration.model].block_bytes(calibration.block_size)
    host_bytes = int(variant.device_times * short_limits(cell).blocks) * block_bytes
    settings = KvOffload(host_memory=str(host_bytes), offload=variant.offload, copy_budget=variant.copy_budget)
    host = host_of(calibration, settings)
    if host is None:
        return None
    transfer = host.transfer
    if variant.link:
        link = LinkModel(call_s=transfer.offload.call_s, byte_s=1 / variant.link)
        transfer = msgspec.structs.replace(transfer, offload=link, restore=link)
    return msgspec.structs.replace(host, adaptive=variant.adaptive, by_gain=variant.by_gain, transfer=transfer)
