"""The document: docs/results/batching.md, made of stored results and nothing else."""

from collections.abc import Mapping
from pathlib import Path

from proserve_lab.report import claims, load_tables, other_tables, standing
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import GRID, Cell, all_cells, policy_names
from proserve_lab.report.latency_probe import OFF
from proserve_lab.report.markdown import table
from proserve_lab.report.pictures import BURST_PLACE, draw_all
from proserve_lab.report.results import Results
from proserve_lab.report.scenarios import BASE, SCENARIOS, SEED, calibration_of, saturation_of
from proserve_lab.report.workloads import WORKLOADS, workload_rows

PICTURES = "batching"
"""Folder beside the document."""


def write_document(by_key: Mapping[str, CellResult], folder: Path) -> Path:
    """Write batching.md and its pictures to `folder`; the document's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "batching.md"
    path.write_text(document_text(by_key), encoding="utf-8")
    draw_all(Results(by_key), folder / PICTURES)
    return path


def document_text(by_key: Mapping[str, CellResult]) -> str:
    """The document; it points to the pictures of `draw_all`."""
    results = Results(by_key)

    def picture(name: str, what: str) -> str:
        return f"![{what}]({PICTURES}/{name}.svg)"

    sections: list[tuple[str, list[str]]] = [
        ("Batching policies compared", [_opening(by_key)]),
        ("Summary", [standing.summary(results)]),
        (
            "Gain and objectives met by load",
            [
                picture("tdg-by-load", "Share of the gain by load, one panel per trace, with the bound"),
                picture("slo-by-load", "Share of the requests that met both objectives, by load"),
                load_tables.by_load(results),
            ],
        ),
        ("Other machines, objectives and mixes", [load_tables.other_circumstances(results)]),
        (
            "By class",
            [
                "Share of the gain of heavy / light requests.",
                picture("classes", "Share of the gain of heavy and light requests by load"),
                load_tables.by_class(results),
            ],
        ),
        (
            "Urgent through a burst",
            [
                f"`slide-batching` on {BURST_PLACE.workload}: a quiet stretch, half a minute without requests, a "
                f"burst of {BURST_PLACE.load:g} times saturation, quiet again.",
                picture("burst", "Share of urgent requests and requests in the engine, by second"),
            ],
        ),
        (
            "Ablations",
            [
                "One thing changed at a time; the last column is the mean change in points of gain.",
                picture("alpha", "Gain of slide-batching by alpha"),
                other_tables.ablations(results),
            ],
        ),
        (
            "Where gain is lost",
            ["Share of the possible gain lost, by cause.", other_tables.losses(results)],
        ),
        (
            "SlidingServe, QoServe and Sarathi under heavy load",
            ["Requests per second that met both objectives, and the share that did not.", other_tables.rivals(results)],
        ),
        (
            "Predictor fidelity",
            [
                "SlidingServe's own predictor, learned from the running engine, at load 1.2; errors of the last 500 "
                "batches of each kind, each predicted before it was learned from.",
                other_tables.fidelity(results),
                "The engine's latency model with online correction, on steps that are 10% off either way, drift and "
                f"have outliers; it starts with all coefficients {OFF - 1:.0%} too large. Errors of the last steps of "
                "each kind:",
                other_tables.corrections(results),
            ],
        ),
        (
            "Plan time",
            [
                "CPU time of one plan in the simulator, on the machine that ran the cells. "
                "`proserve bench plan` compares policies with vLLM's own scheduler.",
                other_tables.plan_time(results),
            ],
        ),
        ("The papers' claims", [claims.claims_table(results)]),
    ]
    parts: list[str] = []
    for number, (heading, body) in enumerate(sections):
        parts += [f"{'#' if number == 0 else '##'} {heading}", *body]
    return "\n\n".join(parts) + "\n"


def _opening(by_key: Mapping[str, CellResult]) -> str:
    cells: list[Cell] = all_cells()
    present = sum(cell.key in by_key for cell in cells)
    machines = [
        f"{name}: {engine.model}, {engine.blocks * engine.block_size:,} KV tokens, {engine.max_sequences} sequences, "
        f"{engine.max_step_tokens:,} tokens a step"
        for name in ("h100", "a100")
        for engine in (calibration_of(name),)
    ]
    low, high = GRID[0].loads[0], GRID[0].loads[-1]
    rows = []
    for name, workload in WORKLOADS.items():
        requests = workload_rows(name)
        mean_prompt = sum(row.prompt_tokens for row in requests) / len(requests)
        mean_output = sum(row.output_tokens for row in requests) / len(requests)
        rates = [f"{saturation_of(scenario, name):.3g}" for scenario in ("h100", "a100")]
        factor = f", outputs x{workload.output_factor}" if workload.output_factor > 1 else ""
        factor += ", load counts all work" if workload.all_work else ""
        rows.append(
            [name, f"{workload.trace}{factor}", str(len(requests)), f"{mean_prompt:.0f} / {mean_output:.0f}", *rates]
        )
    return "\n\n".join(
        [
            "Written by `proserve report batching` from batching.jsonl beside it; do not edit. "
            f"{present} of {len(cells)} cells have a result.",
            f"{len(policy_names())} policies in the simulator, on shipped traces (examples/traces) at {low:g} to "
            f"{high:g} times saturation. The figures are shares of the possible token-level deadline-aware gain (TDG): "
            "each token that arrives before its deadline earns its request's weight. Two classes with weights 2 "
            f"(heavy) and 1 (light), drawn with seed {SEED}, half of the requests each, TTFT {BASE.ttft_s:g} s, TPOT "
            f"{1000 * BASE.tpot_s:g} ms, unless a section says otherwise. Policies know weights, objectives, prompt "
            "lengths and step times, never output lengths. Preempted requests are computed again; no prefix cache.",
            "; ".join(machines) + ".",
            "Load 1 is the rate at which the work that falls due while requests arrive fills the engine's time:",
            table(
                ["name", "trace", "requests", "mean prompt / output", "H100 requests/s", "A100 requests/s"],
                rows,
            ),
            "A best figure is bold. " + ", ".join(f"`{name}`: {item.title}" for name, item in SCENARIOS.items()) + ".",
        ]
    )
