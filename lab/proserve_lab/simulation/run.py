"""The event loop of a simulation.

Events are arrivals and ends of steps; a replica starts its next step as soon as it has work and none is running. Equal
times are ordered: steps end before requests arrive, lower replica first, so that a run depends on its inputs alone.
"""

import heapq
import math
from collections.abc import Callable, Sequence

import msgspec

from proserve_core.gain import GainLedger, RequestAccount, deadline_s
from proserve_core.replica import Replica
from proserve_core.replica_kv import HostTier
from proserve_core.routing import RoutingPolicy
from proserve_lab.simulation.audit import ConservationError, WorkAudit
from proserve_lab.simulation.fleet import SimulatedGateway, replica_name
from proserve_lab.simulation.workload import SimulatedRequest


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated request and when its tokens came, seconds of virtual time."""

    request: SimulatedRequest
    account: RequestAccount
    emitted_s: list[float]


class SimulationRun(msgspec.Struct, frozen=True, kw_only=True):
    """What happened."""

    outcomes: list[Outcome]
    ledger: GainLedger
    steps: int
    preemptions: int
    simulated_s: float
    """End of the last step."""
    busy_s: float
    """Sum of the steps' durations over all replicas, by the latency model."""
    computed_tokens: int
    """New tokens of all steps: of a run to the end, prompts, outputs but for each one's last token, and
    `recomputed_tokens`."""
    recomputed_tokens: int
    """Tokens whose result was lost by a preemption and did not come back from the host."""
    hosts: list[HostTier]
    """Blocks that the replicas keep on the host; empty where they keep none."""


def simulate(
    requests: Sequence[SimulatedRequest],
    *,
    replicas: Sequence[Replica],
    router: RoutingPolicy,
    staleness_s: float = 0.02,
    to_the_end: bool = True,
    noise: Callable[[], float] = lambda: 1.0,
    progress: Callable[[int], None] | None = None,
) -> SimulationRun:
    """Run `requests` (in order of arrival) to their end.

    Args:
        replicas: fresh engines, each with a policy of its own.
        router: which replica gets a request; not asked when there is only one.
        staleness_s: age at which the router sees the replicas' snapshots.
        to_the_end: until the last token; else only until all deadlines are past. Gain and objectives met are the same:
            what has not come by then is counted as coming then, late. An overloaded engine may need many times as long
            for the rest.
        noise: drawn for each step: how long it really takes over what the latency model says. The policies see the
            model only, as those of a real engine do.
        progress: called with the number of finished requests, every 100 of them.

    Raises:
        ConservationError: a step was charged more or less than its work, or tokens or blocks don't add up.
        SubmitError: a request that no engine of this size could hold.
    """
    by_id = {request.id: request for request in requests}
    accounts = {request.id: RequestAccount(request.terms, request.arrival_s) for request in requests}
    emitted: dict[str, list[float]] = {request.id: [] for request in requests}
    ledger = GainLedger()
    audits = [WorkAudit(replica_name(index), replica) for index, replica in enumerate(replicas)]
    gateway = (
        SimulatedGateway(router=router, replicas=len(replicas), staleness_s=staleness_s) if len(replicas) > 1 else None
    )
    # (end of step, replica); arrivals come from the sorted list.
    ends: list[tuple[float, int]] = []
    now_s = 0.0
    end_s = math.inf if to_the_end else max(map(_last_deadline_s, requests), default=0.0)
    finished = arrived = 0

    def settle(request_id: str) -> None:
        """Bring a request's account up to date: tokens are judged many at a time."""
        account = accounts[request_id]
        account.tokens_over(emitted[request_id][account.tokens :])

    def start(index: int) -> None:
        step = replicas[index].begin_step(now_s)
        if step is None:
            return
        audits[index].started(step)
        for request_id in step.plan.preempt:
            settle(request_id)
            accounts[request_id].preempted = True
        heapq.heappush(ends, (now_s + step.duration_s * noise(), index))

    while (ends or arrived < len(requests)) and now_s < end_s:
        if ends and (arrived == len(requests) or ends[0][0] <= requests[arrived].arrival_s):
            now_s, index = heapq.heappop(ends)
            replica = replicas[index]
            emissions = replica.complete_step(now_s)
            audits[index].ended(emissions)
            for emission in emissions:
                request_id = emission.id
                emitted[request_id].append(now_s)
                if gateway is not None:
                    gateway.token(index, by_id[request_id], emission.token, emission.finished)
                if emission.finished:
                    settle(request_id)
                    ledger.close(accounts[request_id])
                    finished += 1
                    if progress is not None and finished % 100 == 0:
                        progress(finished)
            start(index)
            if gateway is not None:
                gateway.published(index, replica.snapshot(now_s), now_s)
        else:
            request = requests[arrived]
            arrived += 1
            now_s = max(now_s, request.arrival_s)
            index = gateway.route(request, now_s) if gateway is not None else 0
            replicas[index].submit(
                request_id=request.id,
                terms=request.terms,
                arrival_s=request.arrival_s,
                prompt_tokens=request.prompt_tokens,
                output_tokens=request.output_tokens,
                clues=request.clues,
            )
            audits[index].submitted(request)
            if not replicas[index].busy:
                start(index)

    if to_the_end or finished == len(requests):
        _check_lengths(requests, emitted)
        for audit, replica in zip(audits, replicas, strict=True):
            audit.check_end(replica)
    else:
        for request in requests:
            missing = request.output_tokens - len(emitted[request.id])
            if missing:
                settle(request.id)
                accounts[request.id].tokens_at(now_s, missing)
                ledger.close(accounts[request.id])
    return SimulationRun(
        outcomes=[
            Outcome(request=request, account=accounts[request.id], emitted_s=emitted[request.id])
            for request in requests
        ],
        ledger=ledger,
        steps=sum(replica.steps for replica in replicas),
        preemptions=sum(replica.preemptions for replica in replicas),
        simulated_s=now_s,
        busy_s=sum(audit.busy_s for audit in audits),
        computed_tokens=sum(audit.computed_tokens for audit in audits),
        recomputed_tokens=sum(audit.recomputed_tokens for audit in audits),
        hosts=[replica.host for replica in replicas if replica.host is not None],
    )


def _last_deadline_s(request: SimulatedRequest) -> float:
    return deadline_s(terms=request.terms, arrival_s=request.arrival_s, token=request.output_tokens)


def _check_lengths(requests: Sequence[SimulatedRequest], emitted: dict[str, list[float]]) -> None:
    for request in requests:
        if len(emitted[request.id]) != request.output_tokens:
            raise ConservationError(
                f"request {request.id}: {len(emitted[request.id])} tokens emitted of {request.output_tokens}"
            )
