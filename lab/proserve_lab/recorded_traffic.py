"""Requests that a gateway recorded (`--record`), as requests of a simulation: what would have happened otherwise?

Lengths are those that came. Of a request that was cut short nobody knows how long it would have been: it gets the
length that was expected when it came. Prompts are not recorded, so prefix hits are not simulated.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.registry import make_policy
from proserve_core.batching.state import EngineLimits
from proserve_core.gain import GainTotals, LossCause, slo_attained
from proserve_core.objectives import PriorityClass
from proserve_core.replica import Replica, SubmitError
from proserve_core.request_record import RecordedEngine, RecordedFleet, RecordLine, RequestRecord
from proserve_lab.simulation.workload import SimulatedRequest

_decoder = msgspec.json.Decoder(RecordLine)
_CUT_SHORT = frozenset({LossCause.SHED, LossCause.ENGINE_FAILURE, LossCause.CLIENT_CANCEL})


class RecordError(ValueError):
    """The files are no record that can be used; the message names the file, the line and what to do."""


class RecordedTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """What one pool got."""

    pool: str
    requests: tuple[RequestRecord, ...]
    """That bring tokens, in order of arrival."""
    engines: tuple[RecordedEngine, ...]
    """As last told; empty: none of them tells."""
    router: str | None
    classes: tuple[PriorityClass, ...]
    """As last configured."""


def read_records(paths: Iterable[Path]) -> list[RecordLine]:
    """All lines, in any order of the files.

    Raises:
        RecordError: a file can't be read, a line is none of a record, or a request is there twice.
    """
    found = []
    lines_of: dict[str, str] = {}
    for path in paths:
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise RecordError(f"{path}: cannot read the record: {error.strerror}") from error
        for number, line in enumerate(lines, start=1):
            # A gateway that was killed may leave half a line at the end.
            if line and (number < len(lines) or line.endswith(b"}")):
                where = f"{path}:{number}"
                read = _line(where, line)
                if read.request is not None:
                    first = lines_of.get(read.request.id)
                    if first is not None:
                        raise RecordError(
                            f"{where}: request {read.request.id!r} is in {first} already; give each record once"
                        )
                    lines_of[read.request.id] = where
                found.append(read)
    return found


def _line(where: str, line: bytes) -> RecordLine:
    try:
        read = _decoder.decode(line)
    except msgspec.DecodeError as error:
        raise RecordError(f"{where}: not a line of a record (`proserve gateway --record`): {error}") from error
    if read.request is None and read.fleet is None:
        raise RecordError(f"{where}: not a line of a record (`proserve gateway --record`): it is empty")
    return read


def pool_traffic(lines: Sequence[RecordLine], pool: str | None) -> RecordedTraffic:
    """The requests of a pool.

    Raises:
        RecordError: there are several pools and none is named, or nothing of it was recorded.
    """
    requests = [line.request for line in lines if line.request is not None]
    pools = sorted({request.pool for request in requests})
    if pool is None:
        if len(pools) > 1:
            raise RecordError(f"the record has several pools: choose one with --pool: {', '.join(pools)}")
        pool = pools[0] if pools else ""
    mine = [each for each in requests if each.pool == pool and (each.output_tokens or each.expected_output_tokens)]
    if not mine:
        raise RecordError(
            f"the record has no requests of pool {pool}; it has: {', '.join(pools)}"
            if pools
            else "the record has no requests"
        )
    fleets = sorted((line.fleet for line in lines if line.fleet is not None), key=_told_s)
    last = next((fleet for fleet in reversed(fleets) if any(each.pool == pool for each in fleet.engines)), None)
    routers = [fleet.routers[pool] for fleet in fleets if pool in fleet.routers]
    return RecordedTraffic(
        pool=pool,
        requests=tuple(sorted(mine, key=lambda request: (request.arrived_unix_s, request.id))),
        engines=() if last is None else tuple([each for each in last.engines if each.pool == pool]),
        router=routers[-1] if routers else None,
        classes=fleets[-1].classes if fleets else (),
    )


def _told_s(fleet: RecordedFleet) -> float:
    return fleet.at_unix_s


def what_happened(requests: Iterable[RequestRecord]) -> dict[str, GainTotals]:
    """Gain by class, as the gateway booked it."""
    sums: dict[str, GainTotals] = {}
    for each in requests:
        totals = sums.setdefault(each.priority_class, GainTotals())
        first_s, last_s, lost = each.ttft_s, each.last_token_s, sum(each.lost.values())
        attained = (
            first_s is not None
            and last_s is not None
            and _CUT_SHORT.isdisjoint(each.lost)
            and slo_attained(each.terms, 0.0, first_s, last_s, each.output_tokens)
        )
        totals.merge(
            GainTotals(
                requests=1,
                slo_attained=attained,
                tokens=each.output_tokens,
                earned=each.earned,
                earnable=each.earned + lost,
                lost=dict(each.lost),
            )
        )
    return sums


def workload(requests: Sequence[RequestRecord], classes: Mapping[str, PriorityClass]) -> list[SimulatedRequest]:
    """The requests as they would come again; those of a class in `classes` with its terms, the others with theirs."""
    start_s = requests[0].arrived_unix_s
    return [
        SimulatedRequest(
            id=each.id,
            terms=classes[each.priority_class].terms() if each.priority_class in classes else each.terms,
            arrival_s=each.arrived_unix_s - start_s,
            prompt_tokens=max(1, each.prompt_tokens or each.expected_prompt_tokens),
            output_tokens=_output_tokens(each),
            tenant=each.tenant,
        )
        for each in requests
    ]


def _output_tokens(request: RequestRecord) -> int:
    if _CUT_SHORT.isdisjoint(request.lost):
        return max(1, request.output_tokens)
    return max(1, request.output_tokens, round(request.expected_output_tokens))


def replicas(engines: Sequence[RecordedEngine], *, count: int, policy: str | None) -> list[Replica]:
    """`count` fresh engines like the recorded ones, in turn, with another policy if one is named.

    Raises:
        PolicyError: there is no such policy.
    """
    chosen = [engines[number % len(engines)] for number in range(count)]
    return [
        Replica(
            policy=make_policy(policy or each.policy),
            policy_name=policy or each.policy,
            limits=_limits(each),
            latency=each.latency,
            engine_id=f"replica-{number}",
        )
        for number, each in enumerate(chosen)
    ]


def servable(requests: Sequence[SimulatedRequest], engines: Sequence[RecordedEngine]) -> list[SimulatedRequest]:
    """Those that every engine could hold."""
    least = min(engines, key=lambda engine: engine.blocks * engine.block_size)
    asked = Replica(policy=Fcfs(), policy_name="fcfs", limits=_limits(least), latency=least.latency)
    found = []
    for each in requests:
        try:
            asked.submit(
                request_id=each.id,
                terms=each.terms,
                arrival_s=each.arrival_s,
                prompt_tokens=each.prompt_tokens,
                output_tokens=each.output_tokens,
            )
        except SubmitError:
            continue
        found.append(each)
    return found


def _limits(engine: RecordedEngine) -> EngineLimits:
    return EngineLimits(
        block_size=engine.block_size,
        blocks=engine.blocks,
        max_sequences=engine.max_sequences,
        max_step_tokens=engine.max_step_tokens,
    )
