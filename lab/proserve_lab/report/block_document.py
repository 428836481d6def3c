"""The document on KV blocks: docs/results/blocks.md, made of stored results and nothing else."""

import math
from collections.abc import Iterable, Mapping, Sequence

from proserve_core.blocks import KV_LAYOUTS, TRANSFERS, Direction, Overlap, Restorable, ResumeModel, best_split
from proserve_core.latency.calibrations import load_calibration
from proserve_lab.report.block_cells import (
    ABLATION,
    DEVICE_TIMES,
    FIXED,
    FULL,
    GPUS,
    LINKS,
    LOADS,
    NO_ASYNC,
    POLICIES,
    RECOMPUTE,
    ROWS,
    SWEEP,
    block_cells,
    on_link,
    short_blocks,
)
from proserve_lab.report.carry_over import carried_note
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell
from proserve_lab.report.markdown import MISSING, ratio, table
from proserve_lab.report.scenarios import calibration_of, saturation_of

PICTURES = "blocks"
"""Folder beside the document."""
PAPER = {"low": (1.29, 6.00), "medium": (1.20, 6.24), "high": (1.16, 1.86)}
"""ProServe, figure 17: missed gain of the three ablations, relative to the full system. The least is the target."""
_PAPERS = (RECOMPUTE, NO_ASYNC, FIXED)
LEAST_MISSED = 0.002
"""Where the full system misses less of the gain than this, ratios of what is missed say nothing."""
RESUME_TARGET = 5.0
STEP_TARGET = 0.03
_OTHERS = tuple(name for name in ABLATION if name != FULL)


def block_document(by_key: Mapping[str, CellResult]) -> str:
    """The document; it points to the pictures of `block_pictures`."""
    cells = block_cells()
    done = sum(cell.key in by_key for cell in cells)
    cpu_s = sum(found.cpu_s for found in by_key.values())
    parts = [
        "# KV blocks, part by part",
        f"Written by `proserve report blocks` from blocks.jsonl beside it; do not edit. {done} of {len(cells)} cells "
        f"have a result; together they took {cpu_s / 60:.0f} minutes of one core.{carried_note(by_key)} docs/blocks.md "
        "says what the parts are.",
        _setup(),
        "## Targets",
        _resume(),
        _step_times(by_key),
        "## Beside the paper",
        "Missed gain, relative to all parts on: above 1 the part pays. Geometric mean over the places of both GPUs, "
        "and the range. The paper's figure has three ablations (recompute, no async, no dynamic copy budget) on one "
        "trace; its range holds all three, and its lower end is the target of each.",
        *(_beside_paper(by_key, policy) for policy in POLICIES),
        *(f"![{policy}]({PICTURES}/{policy}.svg)" for policy in POLICIES),
        "## Each place",
        "Share of the gain with all parts, then the missed gain of the others relative to it "
        f"({MISSING}: not run, or hardly any gain is missed with all parts).",
        *(_places(by_key, policy) for policy in POLICIES),
        "## What copies did",
        "With all parts, in brackets with recompute: preemptions; restores; tokens computed again for each that was "
        "computed; share of the engine's time for which steps waited for copies, each way; requests that met both "
        "objectives.",
        *(_doings(by_key, policy) for policy in POLICIES),
        "## Host memory",
        "All parts, H100, medium load. Host memory in multiples of the device's memory for blocks.",
        _sweep(by_key),
        "## Slower links",
        "What copying ahead brings depends on how long a step waits for a flush. Missed gain without it, relative to "
        "all parts on the same link, H100, medium load; the paper's engine reaches 15 to 18 GB/s.",
        _links(by_key),
    ]
    return "\n\n".join(parts) + "\n"


def missed_ratio(by_key: Mapping[str, CellResult], cell: Cell) -> float | None:
    """Missed gain of the cell over that of the same place with all parts."""
    return _missed(by_key.get(cell.key), by_key.get(_variant(cell, FULL).key))


def _missed(found: CellResult | None, full: CellResult | None) -> float | None:
    if found is None or full is None or 1 - full.tdg_ratio < LEAST_MISSED:
        return None
    return (1 - found.tdg_ratio) / (1 - full.tdg_ratio)


def ratios_at(by_key: Mapping[str, CellResult], policy: str, variant: str, load: float) -> list[float]:
    """`missed_ratio` of all places at a load."""
    cells = (_cell(gpu, workload, load, policy, variant) for gpu in GPUS for workload in ROWS)
    return [found for cell in cells if (found := missed_ratio(by_key, cell)) is not None]


def _cell(gpu: str, workload: str, load: float, policy: str, variant: str) -> Cell:
    return Cell(scenario=gpu, workload=workload, load=load, policy=policy, variant=variant)


def _variant(cell: Cell, variant: str) -> Cell:
    return _cell(cell.scenario, cell.workload, cell.load, cell.policy, variant)


def _setup() -> str:
    rows = []
    for gpu in GPUS:
        calibration = calibration_of(gpu)
        for workload, count in ROWS.items():
            blocks = short_blocks(gpu, workload)
            figures = [f"{saturation_of(gpu, workload):.2f}", f"{blocks:,}"]
            gib = blocks * KV_LAYOUTS[calibration.model].block_bytes(calibration.block_size) / 2**30
            rows.append([gpu, workload, str(count), *figures, f"{gib:.1f}", f"{calibration.blocks:,}"])
    loads = ", ".join(f"{name} {load:g}" for name, load in LOADS.items())
    return (
        "Blocks are short: a quarter of what serving every request just in time takes on average at saturation, at "
        f"least 1.25 times the longest request. Load, times saturation: {loads}. Host memory is {DEVICE_TIMES:g} times "
        "that of the device.\n\n"
    ) + table(
        ["GPU", "workload", "requests", "requests/s at load 1", "blocks", "GiB", "calibrated blocks"], rows, words=2
    )


def _resume() -> str:
    rows = []
    for name in ("h100-llama-3.1-8b", "a100-llama-3.1-8b"):
        calibration = load_calibration(name)
        layout = KV_LAYOUTS[calibration.model]
        model = ResumeModel(
            block_size=calibration.block_size,
            costs=TRANSFERS[calibration.gpu].costs(
                Direction.RESTORE, block_bytes=layout.block_bytes(calibration.block_size)
            ),
            latency=calibration.latency,
            overlap=Overlap(layers=layout.layers),
        )
        whole = best_split(Restorable(request_id="r", tokens=4096, host_blocks=0), model=model)
        back = best_split(Restorable(request_id="r", tokens=4096, host_blocks=256), model=model)
        rows.append(
            [
                name,
                f"{1e3 * whole.resume_s:.1f}",
                f"{1e3 * back.resume_s:.1f}",
                f"{whole.resume_s / back.resume_s:.1f}x",
                f"{RESUME_TARGET:g}x" if name.startswith("h100") else MISSING,
            ]
        )
    return "A request of 4,096 tokens comes back in a step of its own:\n\n" + table(
        ["calibration", "recompute, ms", "restore, ms", "faster", "target"], rows
    )


def _step_times(by_key: Mapping[str, CellResult]) -> str:
    shares = sorted(
        (found.kv.exposed_s[Direction.OFFLOAD.value] / found.busy_s, cell.key)
        for cell in block_cells()
        if cell.variant == FULL and (found := by_key.get(cell.key)) is not None and found.kv is not None
    )
    if not shares:
        return "Copies ahead: not run."
    worst, where = shares[-1]
    median = shares[len(shares) // 2][0]
    return (
        f"Copies ahead make steps longer by {100 * median:.1f}% in the median place and {100 * worst:.1f}% at most "
        f"(`{where}`), flushes included; the target is {100 * STEP_TARGET:g}%."
    )


def _beside_paper(by_key: Mapping[str, CellResult], policy: str) -> str:
    rows = []
    for variant in _OTHERS:
        row = [variant]
        for name, load in LOADS.items():
            found = ratios_at(by_key, policy, variant, load)
            text = f"{_mean(found):.2f} ({min(found):.2f}-{max(found):.2f})" if found else MISSING
            if found and variant in _PAPERS:
                text += ", met" if _mean(found) >= PAPER[name][0] else ", missed"
            row.append(text)
        rows.append(row)
    rows.append(["paper", *(f"{least:.2f}-{most:.2f}" for least, most in PAPER.values())])
    return f"`{policy}`:\n\n" + table(["without", *LOADS], rows)


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-9)) for value in values) / len(values))


def _places(by_key: Mapping[str, CellResult], policy: str) -> str:
    rows = []
    for gpu, workload, name, load in _every_place():
        full = by_key.get(_cell(gpu, workload, load, policy, FULL).key)
        row = [gpu, workload, name, ratio(full.tdg_ratio if full else None)]
        for variant in _OTHERS:
            found = missed_ratio(by_key, _cell(gpu, workload, load, policy, variant))
            row.append(MISSING if found is None else f"{found:.2f}")
        rows.append(row)
    return f"`{policy}`:\n\n" + table(["GPU", "workload", "load", "gain", *_OTHERS], rows, words=3)


def _every_place() -> Iterable[tuple[str, str, str, float]]:
    return ((gpu, workload, name, load) for gpu in GPUS for workload in ROWS for name, load in LOADS.items())


def _doings(by_key: Mapping[str, CellResult], policy: str) -> str:
    rows = []
    for gpu, workload, name, load in _every_place():
        full = by_key.get(_cell(gpu, workload, load, policy, FULL).key)
        plain = by_key.get(_cell(gpu, workload, load, policy, RECOMPUTE).key)
        if full is None or full.kv is None or plain is None:
            continue
        exposed = full.kv.exposed_s
        rows.append(
            [
                gpu,
                workload,
                name,
                f"{full.preemptions} ({plain.preemptions})",
                str(full.kv.restores),
                f"{_again(full):.3f} ({_again(plain):.3f})",
                f"{100 * exposed[Direction.OFFLOAD.value] / full.busy_s:.2f}%",
                f"{100 * exposed[Direction.RESTORE.value] / full.busy_s:.2f}%",
                f"{full.slo_attainment:.3f} ({plain.slo_attainment:.3f})",
            ]
        )
    headings = ["preemptions", "restores", "computed again", "to host", "back", "objectives met"]
    return f"`{policy}`:\n\n" + table(["GPU", "workload", "load", *headings], rows, words=3)


def _again(found: CellResult) -> float:
    return found.recomputed_tokens / found.computed_tokens if found.computed_tokens else 0.0


def _sweep(by_key: Mapping[str, CellResult]) -> str:
    load = LOADS["medium"]
    rows = []
    for workload in ROWS:
        for policy in POLICIES:
            row = [workload, policy]
            variants = (RECOMPUTE, *(f"host {times:g}x" for times in SWEEP), FULL)
            for variant in variants:
                found = by_key.get(_cell("h100", workload, load, policy, variant).key)
                row.append(ratio(found.tdg_ratio if found else None))
            rows.append(row)
    return table(["workload", "policy", "none", *(f"{times:g}x" for times in (*SWEEP, DEVICE_TIMES))], rows, words=2)


def _links(by_key: Mapping[str, CellResult]) -> str:
    load = LOADS["medium"]
    own = 1 / TRANSFERS[calibration_of("h100").gpu].offload.byte_s
    rows = []
    for workload in ROWS:
        for policy in POLICIES:
            row = [workload, policy]
            for link in (None, *LINKS):
                full, without = (
                    by_key.get(_cell("h100", workload, load, policy, on_link(name, link) if link else name).key)
                    for name in (FULL, NO_ASYNC)
                )
                missed = _missed(without, full)
                row.append(MISSING if missed is None else f"{missed:.2f}")
            rows.append(row)
    return table(["workload", "policy", *(f"{link / 1e9:g} GB/s" for link in (own, *LINKS))], rows, words=2)
