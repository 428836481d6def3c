"""Fills one step: walks requests in a policy's order and takes them in while limits and time budget allow.

Policies are an order, a time budget and `FillOptions`; everything about resources is here, so that no policy can plan
more than the engine has. Each entry costs O(1): the step time is predicted from running sums. The decodes that an order
begins with are taken together (`decode_head`).

Rules that hold for every policy: at least one request runs whenever one can; a resident that does not run pauses (it
keeps its blocks and its sequence slot); a victim comes from the tail of the order and never runs in the same step; a
lack of sequence slots holds up waiting requests only; a waiting request is admitted when blocks for all its present
tokens are there, as in vLLM (`scheduler_reserve_full_isl`), though only its chunk's blocks are taken.

Blocks that come back from the host lengthen the step by what of their copies does not hide. Copies that alone take
longer than the budget are made all the same, one request's in a step, and the others run as far as they fit without
them: else that request would never come back, and to compute it again takes longer still.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Protocol

import msgspec
import numpy as np

from proserve_core.batching.decode_head import NOBODY, DecodeHead, decode_head
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import Index, Mask, RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState, PlanEntry, Reason, RequestState
from proserve_core.blocks.restore import StepSums
from proserve_core.latency import LatencyModel, StepWork


class ChoosesVictims(Protocol):
    """Says whose blocks go to others, where that is not the tail of the order."""

    def choose(
        self, pool: Sequence[RequestState], *, blocks: int, newcomer: RequestState, whatever: bool
    ) -> Sequence[RequestState]:
        """Those of `pool`, most important first, that lose theirs so that `newcomer` has `blocks` more; nobody if it is
        not worth it, unless it is to be done `whatever` it costs, as nothing else runs."""
        ...


class FillOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy wants from the filler. The defaults take what fits, as long as it fits."""

    skip: bool = False
    """Go on behind a request that does not fit, instead of ending the fill there."""
    min_chunk: int = 1
    """Smallest part of a prompt worth a step, tokens; the end of a prompt may be smaller."""
    waiting_preempts: bool = True
    """A waiting request may take blocks from residents behind it."""
    waiting_takes_slots: bool = False
    """A waiting request may take a sequence slot from residents behind it, who lose their blocks with it."""
    preempt_self: bool = False
    """A resident for which nobody is left to preempt gives up its own blocks, as in vLLM, instead of pausing."""
    admit_after_preemption: bool = True
    """Admit waiting requests in a step that preempts."""


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens` tokens."""
    return -(-tokens // block_size)


def first_chunk(latency: LatencyModel, min_chunk: int) -> int:
    """Prompt tokens that a step takes even when its time budget is shorter than any useful step.

    Up to the knee they cost nothing extra; without a knee the tokens should cost as much as the step's constant does.
    """
    constant_tokens = latency.constant_s / latency.linear_token_s if latency.linear_token_s > 0 else 0.0
    knee_tokens = latency.knee_tokens
    return max(min_chunk, math.ceil(constant_tokens), math.ceil(knee_tokens) if knee_tokens < math.inf else 0)


def fill_ranked(
    state: EngineState,
    columns: RequestColumns,
    ranking: Ranking,
    *,
    options: FillOptions,
    budget_s: float = math.inf,
    step_tokens: float = math.inf,
    prefill_budget_s: float = math.inf,
    kept: Mask | None = None,
    choice: ChoosesVictims | None = None,
) -> BatchPlan:
    """Plan one step in the order of a ranking of all requests; the other arguments are those of `fill`.

    Args:
        kept: by resident in the order of `columns`; nobody up to the last of these makes room for a waiting request.
    """
    resident_order = ranking.first(columns.residents)
    in_order_of_arrival = state.requests.residents
    residents = [in_order_of_arrival[place] for place in resident_order.tolist()]
    protected = 0
    if kept is not None:
        last = kept.take(resident_order).nonzero()[0]
        protected = int(last[-1]) + 1 if len(last) else 0
    order: Iterable[RequestState]
    slots = state.limits.max_sequences - columns.residents
    if slots <= 0 and not options.waiting_takes_slots and columns.residents < len(columns):
        # Nobody is admitted, so in which order the others wait need not be found out.
        decodes = _count_first(columns.decode.take(resident_order))
        head = decode_head(residents[:decodes], state, step_tokens=step_tokens, budget_s=budget_s)
        order = chain(residents[head.count :], state.requests.waiting)
    else:
        parts = ranking.parts()
        first, parts = _decodes_first(columns, parts)
        head = decode_head(residents[: len(first)], state, step_tokens=step_tokens, budget_s=budget_s)
        order = columns.lazily(chain((first[head.count :],), parts))
    return fill(
        state,
        order=order,
        residents=residents,
        options=options,
        budget_s=budget_s,
        step_tokens=step_tokens,
        prefill_budget_s=prefill_budget_s,
        protected=protected,
        choice=choice,
        head=head,
    )


def _decodes_first(columns: RequestColumns, parts: Iterator[Index]) -> tuple[Index, Iterator[Index]]:
    """The decodes that an order begins with, and what follows, read only as far as it must be."""
    decodes: list[Index] = [np.empty(0, dtype=np.intp)]
    for part in parts:
        first = _count_first(columns.decode.take(part))
        if first < len(part):
            decodes.append(part[:first])
            parts = chain((part[first:],), parts)
            break
        decodes.append(part)
    return np.concatenate(decodes), parts


def _count_first(mask: Mask) -> int:
    """How many are true before the first that is not."""
    first = int(mask.argmin()) if len(mask) else 0
    return len(mask) if len(mask) and mask[first] else first


def fill(
    state: EngineState,
    *,
    order: Iterable[RequestState],
    residents: Sequence[RequestState],
    options: FillOptions,
    budget_s: float = math.inf,
    step_tokens: float = math.inf,
    prefill_budget_s: float = math.inf,
    protected: int = 0,
    choice: ChoosesVictims | None = None,
    head: DecodeHead = NOBODY,
) -> BatchPlan:
    """Plan one step.

    Args:
        order: requests, most important first; read only as far as the fill gets, so it may be lazy. Each has at least
            one pending token. Without those that are in `head`.
        residents: all residents, those of `order` in the same order; victims are taken from its end.
        options: see `FillOptions`.
        budget_s: predicted duration that the step must not exceed; the first entry runs even if it does.
        step_tokens: new tokens that the step must not exceed, where the engine's limit is not the tighter one.
        prefill_budget_s: marginal time that all prompt chunks together must not exceed, with the same exception.
        protected: residents, counted from the first, from whom no waiting request takes blocks or slots.
        choice: whose blocks are taken; None: those of the last residents.
        head: the first residents, who run before all others.
    """
    limits, latency = state.limits, state.latency
    block_size = limits.block_size
    free = state.free_blocks - head.blocks
    tokens_left = (limits.max_step_tokens if limits.max_step_tokens < step_tokens else int(step_tokens)) - head.count
    slots = limits.max_sequences - len(residents)
    timed = budget_s < math.inf
    prefill_left_s = prefill_budget_s
    skip, min_chunk = options.skip, options.min_chunk
    sums_s: StepSums = latency.sums_s
    fixed_s, floor_s, base_s, token_s = latency.host_s, latency.floor_s, latency.linear_base_s, latency.linear_token_s
    attention_s, context_s, sequence_s = latency.attention_s, latency.context_s, latency.sequence_s

    # Sums over the entries so far: what the latency model needs.
    new_tokens = sequences = head.count
    attention, context = 0, head.context
    resume, copied = state.resume, 0  # blocks that come back from the host
    entries = [request.one_token for request in islice(residents, head.count)]
    preempt: list[str] = []
    gone: set[str] = set()  # those of them that `choice` chose: the others are the tail
    paused: list[str] = []
    waits: dict[str, Reason] = {}
    rest = Reason.BEHIND
    reached = head.count  # residents the walk has come to
    tail = len(residents)  # residents from here on are preempted

    walk = iter(order)
    closed: Reason | None = None  # why nobody is admitted any more
    behind_of, behind = -1, 0  # blocks of the residents behind the one reached, as far as known
    while True:
        for request in walk:
            # Nearly all requests that a step looks at are decodes that fit: they take this short cut.
            computed, emitted = request.computed_tokens, request.emitted_tokens
            if (
                not emitted
                or request.prompt_tokens + emitted - computed != 1
                or not request.resident
                or reached >= tail
                or tokens_left <= 0
                or copied
                or gone
            ):
                break
            need = -(-(computed + 1) // block_size) - request.blocks
            if need > free:
                break
            if timed:
                linear_s = base_s + token_s * (new_tokens + 1)
                step_s = (
                    fixed_s
                    + (linear_s if linear_s > floor_s else floor_s)
                    + attention_s * attention
                    + context_s * (context + computed)
                    + sequence_s * (sequences + 1)
                )
                if step_s > budget_s and entries:
                    break
            if need > 0:
                free -= need
            entries.append(request.one_token)
            reached += 1
            new_tokens += 1
            tokens_left -= 1
            sequences += 1
            context += computed
        else:
            break
        if slots <= 0 and closed is None and not (options.waiting_takes_slots and tail > reached and tail > protected):
            closed = Reason.SEQUENCES
            walk = iter(residents[reached:tail])
            continue
        resident = request.resident
        if resident:
            if reached >= tail:
                continue
            if request.id in gone:
                reached += 1
                continue
        elif preempt and not options.admit_after_preemption:
            rest = Reason.BLOCKS
            break
        if tokens_left <= 0:
            rest = Reason.STEP_TOKENS
            break
        if resident:
            reached += 1

        pending = request.prompt_tokens + emitted - computed
        decode = resident and pending == 1 and emitted > 0
        chunk = pending if pending < tokens_left else tokens_left
        reason: Reason | None = None
        back, without_s = 0, sums_s
        if resume is not None and not resident and request.host_tokens:
            back = request.host_tokens // block_size
            if copied or resume.costs.copy_s(back) <= budget_s:
                sums_s = resume.step_with(copied + back)
        if timed and (entries or not decode):
            if decode:
                step_s = sums_s(new_tokens + 1, attention, context + computed, sequences + 1)
            else:
                added = chunk * (chunk + 2 * computed)
                step_s = sums_s(new_tokens + chunk, attention + added, context, sequences + 1)
            if step_s > budget_s:
                reason = Reason.STEP_TIME
                if not decode:
                    sums = StepWork(
                        new_tokens=new_tokens, attention=attention, decode_context=context, sequences=sequences
                    )
                    exposed_s = 0.0
                    if copied or back:
                        alone_s = latency.sums_s(new_tokens + chunk, attention + added, context, sequences + 1)
                        exposed_s = step_s - alone_s
                    fitting = latency.largest_chunk(
                        budget_s=budget_s - exposed_s, base=sums, cached=computed, limit=chunk
                    )
                    if exposed_s > 0:
                        added = fitting * (fitting + 2 * computed)
                        if sums_s(new_tokens + fitting, attention + added, context, sequences + 1) > budget_s:
                            fitting = 0
                    if not entries:
                        fitting = max(fitting, min(chunk, first_chunk(latency, min_chunk)))
                    if fitting >= min_chunk or fitting == chunk:
                        chunk, reason = fitting, None
        if prefill_left_s < math.inf and not decode and reason is None:
            fitting = int(min(latency.prefill_tokens(prefill_left_s, computed), chunk))
            if not entries:
                fitting = max(fitting, min(chunk, min_chunk))
            if fitting >= min_chunk or fitting == chunk:
                chunk = fitting
            else:
                reason = Reason.STEP_TIME
        if chunk < min_chunk and chunk < pending and entries and reason is None:
            reason = Reason.STEP_TOKENS

        if reason is None:
            held = request.blocks
            need = -(-(computed + (chunk if resident else pending)) // block_size) - held
            first_victim = reached if resident or reached > protected else protected
            slotless = slots <= 0 and not resident
            if choice is not None and need > free and not slotless and (resident or options.waiting_preempts):
                pool = [other for other in residents[reached:tail] if other.id not in gone]
                for victim in choice.choose(pool, blocks=need - free, newcomer=request, whatever=not entries):
                    gone.add(victim.id)
                    preempt.append(victim.id)
                    waits[victim.id] = Reason.PREEMPTED
                    free += victim.blocks - victim.copying_blocks
                    slots += 1
                behind_of = -1
            elif slotless or (need > free and (resident or options.waiting_preempts)):
                if behind_of != first_victim:
                    behind_of = first_victim
                    behind = sum(
                        victim.blocks - victim.copying_blocks
                        for victim in residents[first_victim:tail]
                        if victim.id not in gone
                    )
                if options.preempt_self or need <= free + behind:
                    while (need > free or (slotless and slots <= 0)) and tail > first_victim:
                        tail -= 1
                        victim = residents[tail]
                        if victim.id in gone:
                            continue
                        preempt.append(victim.id)
                        waits[victim.id] = Reason.PREEMPTED
                        free += victim.blocks - victim.copying_blocks
                        behind -= victim.blocks - victim.copying_blocks
                        slots += 1
                    if need > free and resident:
                        tail -= 1
                        preempt.append(request.id)
                        waits[request.id] = Reason.PREEMPTED
                        rest = Reason.BLOCKS
                        break
            if need > free:
                reason = Reason.BLOCKS
            elif need > 0:
                free -= need if resident else -(-(computed + chunk) // block_size) - held

        if reason is not None:
            sums_s = without_s
            waits[request.id] = reason
            if resident:
                paused.append(request.id)
            if entries and (not skip or sums_s(new_tokens + 1, attention, context, sequences + 1) > budget_s):
                rest = Reason.STEP_TIME if reason is Reason.STEP_TIME else Reason.BEHIND
                break
            if closed is None and not resident and not back and entries and reason is not Reason.BLOCKS:
                # The step is nearly full: the next waiting one would fit by accident at best.
                closed = reason
                walk = iter(residents[reached:tail])
            continue

        entries.append(PlanEntry(request.id, chunk))
        copied += back
        new_tokens += chunk
        tokens_left -= chunk
        sequences += 1
        if decode:
            context += computed
        else:
            attention += chunk * (chunk + 2 * computed)
            if prefill_left_s < math.inf:
                prefill_left_s -= latency.prefill_s(chunk, computed)
            if not resident:
                slots -= 1

    if copied and resume is not None:
        sums_s = resume.step_with(copied)
    if closed is not None:
        for request in residents[reached:tail]:
            if request.id not in gone:
                waits[request.id] = rest
        rest = closed
    return BatchPlan(
        entries=tuple(entries),
        preempt=tuple(preempt),
        predicted_s=sums_s(new_tokens, attention, context, sequences) if entries else 0.0,
        order=(
            *[entry.id for entry in entries],
            *paused,
            *[request.id for request in residents[reached:tail] if request.id not in gone],
        ),
        waits=waits,
        rest=rest,
    )
