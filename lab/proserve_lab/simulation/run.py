"""The event loop of a simulation.

Events are arrivals, ends of steps, and moments at which a gateway looks again at the requests that wait there. A
replica starts its next step as soon as it has work and none is running. Equal times are ordered: steps end before
requests arrive, lower replica first, and gateways look last, so that a run depends on its inputs alone.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from proserve_core.gain import GainLedger, RequestAccount, deadline_s
from proserve_core.objectives import ServiceTerms
from proserve_core.replica import Replica
from proserve_core.replica_kv import HostTier
from proserve_core.routing import WaitingRoom
from proserve_lab.simulation.audit import ConservationError, WorkAudit
from proserve_lab.simulation.fleet import SimulatedGateway, replica_name
from proserve_lab.simulation.prefix_cache import PrefixCache
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
    rooms: Sequence[WaitingRoom] = (),
    staleness_s: float = 0.02,
    prefixes: Mapping[str, tuple[int, ...]] | None = None,
    to_the_end: bool = True,
    noise: Callable[[], float] = lambda: 1.0,
    progress: Callable[[int], None] | None = None,
) -> SimulationRun:
    """Run `requests` (in order of arrival) to their end.

    Args:
        replicas: fresh engines, each with a policy of its own.
        rooms: of each gateway, which replica gets a request and when. Requests come to the gateways in turn, and none
            sees what another one sends. Without any, all requests go to the only replica at once.
        staleness_s: age at which gateways see the replicas' snapshots.
        prefixes: hashes of the prompts' blocks, by request; replicas then have a prefix cache of the size of theirs.
        to_the_end: until the last token; else only until all deadlines are past. Gain and objectives met are the same:
            what has not come by then is counted as coming then, late. An overloaded engine may need many times as long
            for the rest.
        noise: drawn for each step: how long it really takes over what the latency model says. The policies see the
            model only, as those of a real engine do.
        progress: called with the number of finished requests, every 100 of them.

    Raises:
        ValueError: several replicas and no gateway.
        ConservationError: a step was charged more or less than its work, or tokens or blocks don't add up.
        SubmitError: a request that no engine of this size could hold.
    """
    if not rooms and len(replicas) != 1:
        raise ValueError(f"rooms: {len(replicas)} replicas need at least one gateway")
    by_id = {request.id: request for request in requests}
    accounts = {request.id: RequestAccount(request.terms, request.arrival_s) for request in requests}
    emitted: dict[str, list[float]] = {request.id: [] for request in requests}
    ledger = GainLedger()
    audits = [WorkAudit(replica_name(index), replica) for index, replica in enumerate(replicas)]
    gateways = [SimulatedGateway(room=room, replicas=len(replicas), staleness_s=staleness_s) for room in rooms]
    gateway_of: dict[str, SimulatedGateway] = {}
    prefixes = prefixes or {}
    caches = [PrefixCache(replica.limits.blocks * replica.limits.block_size) for replica in replicas]
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

    def submit(request: SimulatedRequest, index: int, terms: ServiceTerms) -> None:
        cached_tokens = caches[index].use(prefixes.get(request.id, ()), request.prompt_tokens)
        replicas[index].submit(
            request_id=request.id,
            terms=terms,
            arrival_s=request.arrival_s,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            cached_tokens=cached_tokens,
            clues=request.clues,
        )
        audits[index].submitted(request, cached_tokens)
        if not replicas[index].busy:
            start(index)

    def bind(gateway: SimulatedGateway) -> None:
        for request, index, terms in gateway.bind(now_s):
            gateway_of[request.id] = gateway
            submit(request, index, terms)

    while now_s < end_s:
        step_s = ends[0][0] if ends else math.inf
        arrival_s = requests[arrived].arrival_s if arrived < len(requests) else math.inf
        wake_s = min([gateway.wake_s for gateway in gateways], default=math.inf)
        if step_s == arrival_s == wake_s == math.inf:
            break
        if step_s <= arrival_s and step_s <= wake_s:
            now_s, index = heapq.heappop(ends)
            replica = replicas[index]
            emissions = replica.complete_step(now_s)
            audits[index].ended(emissions)
            for emission in emissions:
                request_id = emission.id
                emitted[request_id].append(now_s)
                if gateways:
                    gateway_of[request_id].token(index, by_id[request_id], emission.token, emission.finished)
                if emission.finished:
                    settle(request_id)
                    ledger.close(accounts[request_id])
                    finished += 1
                    if progress is not None and finished % 100 == 0:
                        progress(finished)
            start(index)
            if gateways:
                snapshot = replica.snapshot(now_s)
                for gateway in gateways:
                    gateway.published(index, snapshot, now_s)
        elif arrival_s <= wake_s:
            request = requests[arrived]
            now_s = max(now_s, arrival_s)
            if gateways:
                gateway = gateways[arrived % len(gateways)]
                gateway.arrived(request, now_s, prefixes.get(request.id, ()))
                bind(gateway)
            else:
                submit(request, 0, request.terms)
            arrived += 1
        else:
            now_s = max(now_s, wake_s)
            bind(min(gateways, key=lambda gateway: gateway.wake_s))

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
