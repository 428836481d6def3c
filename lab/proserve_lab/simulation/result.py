"""The figures of a simulation, in the form that `proserve simulate --format json` prints."""

from collections.abc import Sequence
from typing import TextIO

import msgspec

from proserve_core.blocks import Direction
from proserve_core.gain import GainTotals
from proserve_core.replica_kv import HostTier
from proserve_lab.judgement import percentile
from proserve_lab.simulation.run import Outcome, SimulationRun


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    tdg_ratio: float
    slo_attainment: float


class PlanFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Time to plan a step, microseconds of wall time."""

    p50: float
    p99: float


class KvFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What keeping KV blocks on the host did, of all replicas."""

    host_blocks: int
    """Room for so many."""
    offloaded_blocks: int
    """Arrived there."""
    restored_blocks: int
    copied_bytes: int
    """Both ways."""
    hidden_s: dict[str, float]
    """Time of copies behind compute, by direction."""
    exposed_s: dict[str, float]
    """Time for which steps waited for copies, by direction."""
    restores: int
    """Preempted requests that came back with blocks from the host."""
    recomputed_tokens: int
    """Tokens of preempted requests that were computed again."""
    evicted_blocks: int


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Field names are a contract: scripts read them."""

    policy: str
    router: str
    replicas: int
    rate: float
    """Mean arrivals per second that were simulated."""
    requests: int
    tdg_ratio: float
    slo_attainment: float
    classes: dict[str, ClassFigures]
    steps: int
    preemptions: int
    plan_us: PlanFigures
    simulated_s: float
    wall_s: float
    kv: KvFigures | None = None
    """Only where blocks are kept on the host."""


def summarise(
    run: SimulationRun, *, policy: str, router: str, replicas: int, plan_s: Sequence[float], wall_s: float
) -> SimulationResult:
    """Sum a run up."""
    total = run.ledger.total()
    arrivals_s = [outcome.request.arrival_s for outcome in run.outcomes]
    span_s = arrivals_s[-1] - arrivals_s[0]
    return SimulationResult(
        policy=policy,
        router=router,
        replicas=replicas,
        rate=round((len(arrivals_s) - 1) / span_s, 6) if span_s > 0 else 0.0,
        requests=total.requests,
        tdg_ratio=total.tdg_ratio,
        slo_attainment=total.slo_attainment,
        classes={name: _class_figures(totals) for name, totals in sorted(run.ledger.by_class().items())},
        steps=run.steps,
        preemptions=run.preemptions,
        plan_us=PlanFigures(p50=1e6 * (percentile(plan_s, 50) or 0.0), p99=1e6 * (percentile(plan_s, 99) or 0.0)),
        simulated_s=run.simulated_s,
        wall_s=wall_s,
        kv=kv_figures(run.hosts),
    )


def kv_figures(hosts: Sequence[HostTier]) -> KvFigures | None:
    """Sum up what blocks on the hosts did; None without any."""
    if not hosts:
        return None
    totals = [host.totals for host in hosts]
    return KvFigures(
        host_blocks=sum(host.ledger.host_blocks for host in hosts),
        offloaded_blocks=sum(total.offloaded_blocks for total in totals),
        restored_blocks=sum(total.restored_blocks for total in totals),
        copied_bytes=sum(
            (host.totals.offloaded_blocks + host.totals.restored_blocks) * host.block_bytes for host in hosts
        ),
        hidden_s={
            Direction.OFFLOAD.value: round(sum(total.offload_hidden_s for total in totals), 6),
            Direction.RESTORE.value: round(sum(total.restore_hidden_s for total in totals), 6),
        },
        exposed_s={
            Direction.OFFLOAD.value: round(sum(total.offload_exposed_s for total in totals), 6),
            Direction.RESTORE.value: round(sum(total.restore_exposed_s for total in totals), 6),
        },
        restores=sum(total.restores for total in totals),
        recomputed_tokens=sum(total.recomputed_tokens for total in totals),
        evicted_blocks=sum(total.evicted_blocks for total in totals),
    )


def write_token_log(outcomes: Sequence[Outcome], file: TextIO) -> None:
    """One JSON line per request, in order of arrival: enough to recompute the gain."""
    for outcome in outcomes:
        request = outcome.request
        record = {
            "id": request.id,
            "class": request.terms.priority_class,
            "weight": request.terms.weight,
            "arrival": request.arrival_s,
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.output_tokens,
            "ttft_s": request.terms.objectives.ttft_s,
            "tpot_s": request.terms.objectives.tpot_s,
            "emitted": outcome.emitted_s,
        }
        file.write(msgspec.json.encode(record).decode() + "\n")


def _class_figures(totals: GainTotals) -> ClassFigures:
    return ClassFigures(requests=totals.requests, tdg_ratio=totals.tdg_ratio, slo_attainment=totals.slo_attainment)
