"""Makes the outlook of an engine from its snapshot, or from this gateway's own requests where it publishes none."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.capacity import CapacitySnapshot, RequestRow
from proserve_core.gain import deadline_s
from proserve_core.routing.engine_profile import EngineProfile, snapshot_profile
from proserve_core.routing.outlook import RANKING_POLICIES, Decodes, EngineOutlook, Queued
from proserve_core.routing.output_lengths import FIRST_GUESS_TOKENS
from proserve_core.routing.own_rows import own_request
from proserve_core.routing.request_worth import WorthColumns, coefficients, demand, worth_of
from proserve_core.routing.state import Dispatched, EngineView


def outlook_of_snapshot(snapshot: CapacitySnapshot, view: EngineView) -> EngineOutlook:
    """What the snapshot says; requests sent since are left to `add_sent`."""
    profile = snapshot_profile(snapshot)
    latency = profile.latency
    decode_s, context_s = latency.linear_token_s + latency.sequence_s, latency.context_s
    queued: list[RequestRow] = []
    decoding: list[RequestRow] = []
    ranks = snapshot.policy in RANKING_POLICIES
    load, decodes_s, tightest_tpot_s = 0.0, 0.0, math.inf
    decodes = context = 0
    for row in snapshot.rows:
        tpot_s = row.tpot_s
        if tpot_s < tightest_tpot_s:
            tightest_tpot_s = tpot_s
        if row.decoding or row.prefill_tokens <= 0:
            decodes += 1
            context += row.context_tokens
            token_s = decode_s + context_s * row.context_tokens
            decodes_s += token_s
            load += token_s / tpot_s
            if row.emitted_tokens and not ranks:
                decoding.append(row)
        else:
            queued.append(row)
    if snapshot.rows_truncated and decodes:
        beyond = snapshot.running - sum([row.resident for row in snapshot.rows])
        load *= 1 + max(0, beyond) / decodes
        decodes_s *= 1 + max(0, beyond) / decodes
    started_s = view.snapshot_s - (snapshot.step_age_s or 0.0)
    predicted_s = snapshot.step_predicted_s or 0.0
    decode_step_s = latency.sums_s(decodes, 0.0, context, decodes)
    outlook = EngineOutlook(
        name=view.name,
        profile=profile,
        ranks=ranks,
        at_s=started_s,
        snapshot_s=view.snapshot_s,
        step_end_s=started_s + predicted_s,
        step_s=max(predicted_s, decode_step_s),
        decode_step_s=decode_step_s,
        load=load,
        decodes_s=decodes_s,
        tightest_tpot_s=tightest_tpot_s,
        free_blocks=snapshot.free_blocks - sum([profile.blocks_for(row.prefill_tokens) for row in queued]),
        free_sequences=snapshot.max_sequences - snapshot.running - snapshot.waiting,
    )
    if decoding:
        outlook.decodes = _decodes(decoding, view)
    queue = _queue(queued, view, outlook) if queued else []
    if snapshot.rows_truncated:
        queue.extend(_beyond_rows(snapshot, queued, queue, profile))
    outlook.fill(queue)
    return outlook


def outlook_of_own_requests(view: EngineView, profile: EngineProfile, now_s: float) -> EngineOutlook:
    """Of an engine without a snapshot, of the size of `profile` and of its speed too unless the view knows better: no
    prompt is begun before its first token is here."""
    if view.latency is not None:
        profile = msgspec.structs.replace(profile, latency=view.latency)
    latency = profile.latency
    waiting: list[Dispatched] = []
    decoding: list[tuple[float, float, float, float]] = []
    load, decodes_s, tightest_tpot_s = 0.0, 0.0, math.inf
    blocks = decodes = context = 0
    for entry in view.dispatched.values():
        request = entry.request
        tightest_tpot_s = min(tightest_tpot_s, request.terms.objectives.tpot_s)
        if entry.emitted_tokens or entry.begun_s <= now_s:
            tokens = request.prompt_tokens + entry.emitted_tokens
            decodes += 1
            context += tokens
            token_s = latency.decode_s(tokens)
            decodes_s += token_s
            load += token_s / request.terms.objectives.tpot_s
            if entry.emitted_tokens:
                due_s = deadline_s(terms=request.terms, arrival_s=request.arrival_s, token=entry.emitted_tokens + 1)
                worth = worth_of(request)
                decoding.append((due_s, worth.token_gain, worth.rest, worth.tpot_s))
            output = max(entry.emitted_tokens, math.ceil(request.expected_output_tokens))
            blocks += profile.blocks_for(request.prompt_tokens + output)
        else:
            waiting.append(entry)
    decode_step_s = latency.sums_s(decodes, 0.0, context, decodes)
    outlook = EngineOutlook(
        name=view.name,
        profile=profile,
        ranks=False,
        at_s=now_s,
        snapshot_s=now_s,
        step_end_s=now_s,
        step_s=decode_step_s,
        decode_step_s=decode_step_s,
        load=load,
        decodes_s=decodes_s,
        tightest_tpot_s=tightest_tpot_s,
        free_blocks=profile.blocks - blocks,
        free_sequences=profile.max_sequences - decodes,
    )
    if decoding:
        outlook.decodes = Decodes(*np.array(decoding).T)
    outlook.fill([])
    for entry in waiting:
        add_sent(outlook, entry, now_s)
    return outlook


def add_sent(outlook: EngineOutlook, entry: Dispatched, from_s: float) -> None:
    """Put a request that the snapshot does not show yet into the queue; it could begin at `from_s`."""
    request = entry.request
    worth = worth_of(request)
    needs = demand(
        worth,
        np.array([coefficients(outlook)]).T,
        tokens=request.prompt_tokens - entry.cached_tokens,
        cached=entry.cached_tokens,
        now_s=from_s,
    )
    outlook.add(
        Queued(
            float(needs.density[0]),
            float(needs.prefill_s[0]),
            worth.deadline_s,
            worth.full,
            worth.token_gain,
            worth.rest,
            worth.tpot_s,
            float(needs.load[0]),
        ),
        from_s,
        outlook.profile.blocks_for(request.prompt_tokens + 1),
    )


def _decodes(rows: Sequence[RequestRow], view: EngineView) -> Decodes:
    """Decodes of the snapshot."""
    rest = _expected_tokens(rows, view)
    columns = np.array([(row.deadline_in_s, row.weight * row.output_token_gain, row.tpot_s) for row in rows]).T
    due_in_s, token_gain, tpot_s = columns
    return Decodes(due_in_s + view.snapshot_s, token_gain, rest, tpot_s)


def _expected_tokens(rows: Sequence[RequestRow], view: EngineView) -> NDArray[np.float64]:
    """Output still to come of each; requests of others are taken to be like our own."""
    own = [own_request(view.dispatched, row.id) for row in rows]
    typical = FIRST_GUESS_TOKENS
    if view.dispatched and None in own:
        expected = [entry.request.expected_output_tokens for entry in view.dispatched.values()]
        typical = sum(expected) / len(expected)
    return np.array([typical if entry is None else entry.request.expected_output_tokens for entry in own])


def _queue(rows: Sequence[RequestRow], view: EngineView, outlook: EngineOutlook) -> list[Queued]:
    """Prefills of the snapshot."""
    rest = _expected_tokens(rows, view)
    columns = np.array(
        [
            (
                row.prefill_tokens,
                row.context_tokens,
                row.weight * (row.output_token_gain if row.emitted_tokens else row.first_token_gain),
                row.weight * row.output_token_gain,
                row.tpot_s,
                row.deadline_in_s,
            )
            for row in rows
        ],
        dtype=np.float64,
    ).T
    tokens, cached, next_gain, token_gain, tpot_s, deadline_in_s = columns
    deadline_s = deadline_in_s + view.snapshot_s
    full = next_gain + token_gain * np.maximum(0.0, rest - 1)
    needs = demand(
        WorthColumns(full, token_gain, rest, tpot_s, deadline_s),
        np.array([coefficients(outlook)]).T,
        tokens=tokens,
        cached=cached,
        now_s=view.snapshot_s,
    )
    fields = (needs.density, needs.prefill_s, deadline_s, full, token_gain, rest, tpot_s, needs.load)
    return [Queued(*values) for values in zip(*[column.tolist() for column in fields], strict=True)]


def _beyond_rows(
    snapshot: CapacitySnapshot, rows: Sequence[RequestRow], queue: Sequence[Queued], profile: EngineProfile
) -> list[Queued]:
    """Prefills that the rows had no room for, as one in the middle of the others: it delays, but can lose no gain."""
    requests = max(1, snapshot.waiting - sum([not row.resident for row in rows]))
    tokens = sum([total.prefill_tokens for total in snapshot.classes.values()])
    tokens -= sum([row.prefill_tokens for row in rows])
    if tokens <= 0:
        return []
    density = sorted([item.density for item in queue])[len(queue) // 2] if queue else 0.0
    return [Queued(density, requests * profile.prefill_s(tokens // requests), math.inf, 0.0, 0.0, 1.0, 1.0, 0.0)]
