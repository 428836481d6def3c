"""The document: docs/results/batching.md, made of stored results and nothing else."""

from collections.abc import Mapping

from proserve_lab.report import (
    bound_shares,
    claims,
    floors,
    load_tables,
    other_tables,
    overload_sums,
    standing,
    targets,
)
from proserve_lab.report.carry_over import carried_note
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import GRID, Cell, all_cells, policy_names
from proserve_lab.report.latency_probe import OFF
from proserve_lab.report.markdown import NOT_RUN, table
from proserve_lab.report.pictures import BURST_PLACE
from proserve_lab.report.results import Results
from proserve_lab.report.scenarios import BASE, SCENARIOS, SEED, calibration_of, saturation_of
from proserve_lab.report.workloads import WORKLOADS, workload_rows

PICTURES = "batching"
"""Folder beside the document."""


def batching_document(by_key: Mapping[str, CellResult]) -> str:
    """The document; it points to the pictures of `batching_pictures`."""
    results = Results(by_key)

    def picture(name: str, what: str) -> str:
        return f"![{what}]({PICTURES}/{name}.svg)"

    sections: list[tuple[str, list[str]]] = [
        ("Batching policies compared", [_opening(by_key)]),
        ("Summary", [standing.summary(results)]),
        (
            "Targets",
            [
                "What we aimed at, and how many places (or sums over places) hold it. *Open*: what has been run holds, "
                "but some is not run; a target is *met* only when all is run.",
                targets.targets_table(results),
                "### Beside our prior study",
                floors.floors_table(results),
                floors.distances_table(results),
                "### Beside the bound",
                bound_shares.shares_tables(results),
                "### Over each other policy in overload",
                overload_sums.sums_table(results),
            ],
        ),
        (
            "Gain and objectives met by load",
            [
                picture("tdg-by-load", "Share of the gain by load, one panel per trace, with the bound"),
                picture("slo-by-load", "Share of the requests that met both objectives, by load"),
                "A request meets both objectives when its first token and its mean time per token are in time. No "
                "policy here maximises that; those that take short requests first have much of it. *bound*: no "
                "schedule earns more, not even one that knows all arrivals and lengths (docs/bound.md).",
                load_tables.by_load(results),
            ],
        ),
        (
            "Other machines, objectives and mixes",
            [
                "Share of the gain. The bound of the same requests with more sequences or blocks is shown where only "
                "these are fewer.",
                load_tables.other_circumstances(results),
            ],
        ),
        (
            "By class",
            [
                "Share of their own possible gain that heavy / light requests earn, in overload.",
                picture("classes", "Share of the gain of heavy and light requests by load"),
                load_tables.by_class(results),
            ],
        ),
        (
            "Urgent through a burst",
            [
                f"`slide-batching` on {BURST_PLACE.workload}: a quiet stretch, half a minute without requests, a "
                f"burst of {BURST_PLACE.load:g} times saturation, quiet again."
                + ("" if results.find(BURST_PLACE, "slide-batching") else f" {NOT_RUN}"),
                picture("burst", "Share of urgent requests and requests in the engine, by second"),
            ],
        ),
        (
            "Ablations",
            [
                "One thing changed at a time; share of the gain, and in the last column the mean change in points. "
                "`slide-batching`, `sliding-serve` and `qoserve` have options for this; of `recoverable-gain`, which "
                "has none, a part is replaced. With `lengths known` it sees what no engine can.",
                picture("alpha", "Gain of slide-batching by alpha"),
                other_tables.ablations(results),
            ],
        ),
        (
            "Where gain is lost",
            [
                "Share of the possible gain that is earned, and that is lost, by cause, at twice the saturation: the "
                "first token was late; a later one was, after a late first one (queued), after losing its blocks "
                "(preempted), or after a first one in time (batched). A row adds up to 1.",
                other_tables.losses(results),
            ],
        ),
        (
            "SlidingServe, QoServe and Sarathi under heavy load",
            ["Requests per second that met both objectives, and the share that did not.", other_tables.rivals(results)],
        ),
        (
            "Predictor fidelity",
            [
                "SlidingServe's own predictor, learned from the running engine; errors of the last 500 batches of each "
                "kind, each predicted before it was learned from. Simulated step times are exact (except under "
                "`noise`) and of the family that its features can express, so an R2 of 1 says that the features "
                "suffice and nothing about real engines; kinds with a handful of batches say nothing at all.",
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
                "CPU time of one plan in the simulator, on the machine that ran the cells, other work beside it. The "
                "share is the median plan over the mean step, in the median cell. `proserve bench plan` compares "
                "policies with vLLM's own scheduler.",
                other_tables.plan_time(results),
            ],
        ),
        (
            "The papers' claims",
            [
                "There: other hardware, traces and objectives, most of them not published. Verdicts are computed from "
                "the cells of this report (H100; overload: loads from 1.2 on); reasons are ours. A relative gain is "
                "quoted only over a baseline that earns something.",
                claims.claims_table(results),
                "Not checked here: ProServe's router and block management; SlidingServe's transient load; QoServe's "
                "dynamic chunks by themselves and its comparison with separate clusters.",
            ],
        ),
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
            f"{present} of {len(cells)} cells have a result.{carried_note(by_key)}",
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
                words=2,
            ),
            "Policies run with their defaults (docs/batching.md): `slide-batching` without a starvation rule, "
            "`qoserve` with 8 ms per prompt token, `density`, `srpf`, `sarathi` and `sarathi-priority` in steps of 512 "
            "tokens, `edf` of 2,048, `fcfs` and `priority` of as many as the engine takes. The best figure of a place "
            "is bold. Circumstances:",
            "\n".join(f"- `{name}`: {item.title}" for name, item in SCENARIOS.items()),
        ]
    )
