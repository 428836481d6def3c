"""A capacity snapshot of an engine that publishes none, from its metrics and from what this gateway sent to it.

Coarser than an engine's own in three ways: the requests of others are only counted (their prompts are taken to be as
long as our own are), the engine is taken to be as fast as `profile`, and it serves in the order of arrival.
"""

from collections.abc import Iterable

from proserve_core.capacity import CapacitySnapshot, ClassTotals, RequestRow
from proserve_core.engine_metrics import EngineReading
from proserve_core.gain import deadline_s
from proserve_core.routing.engine_profile import EngineProfile
from proserve_core.routing.state import Dispatched

ENGINE_ID = "metrics"
"""Of every coarse snapshot: an engine that was started anew looks like one that lost its requests, as it did."""
POLICY = "unknown"
OTHERS = ""
"""Class under which the requests of others are added up."""
TYPICAL_PROMPT_TOKENS = 512
"""Of requests of others, while we have none there ourselves."""


def coarse_snapshot(
    reading: EngineReading, own: Iterable[Dispatched], *, profile: EngineProfile, seq: int, now_s: float
) -> CapacitySnapshot:
    """`own` are all requests of this gateway at the engine, `now_s` is the time of the reading on their clock."""
    requests = list(own)
    rows = tuple(_row(entry, now_s) for entry in requests)
    decoding = sum([row.decoding for row in rows])
    unstarted = len(rows) - decoding
    total = max(reading.running + reading.waiting, len(rows))
    running = max(reading.running, decoding)
    others = total - len(rows)
    others_waiting = min(others, max(0, reading.waiting - unstarted))
    prompts = [entry.request.prompt_tokens for entry in requests]
    prompt_tokens = sum(prompts) // len(prompts) if prompts else TYPICAL_PROMPT_TOKENS
    blocks = reading.blocks or profile.blocks
    block_size = reading.block_size or profile.block_size
    own_prefill = sum([row.prefill_tokens for row in rows])
    return CapacitySnapshot(
        seq=seq,
        engine_id=ENGINE_ID,
        model="",
        policy=POLICY,
        age_s=0.0,
        block_size=block_size,
        blocks=blocks,
        free_blocks=_free_blocks(reading, requests, blocks, block_size),
        running=running,
        waiting=max(0, total - running),
        max_sequences=max(profile.max_sequences, running),
        max_step_tokens=profile.max_step_tokens,
        latency=profile.latency,
        classes={
            OTHERS: ClassTotals(
                waiting=others_waiting,
                running=others - others_waiting,
                prefill_tokens=own_prefill + others_waiting * prompt_tokens,
            )
        },
        rows=rows,
        rows_truncated=others > 0,
    )


def _row(entry: Dispatched, now_s: float) -> RequestRow:
    """A request as the engine would show it: it is computing its prompt until its first token is here."""
    request, emitted = entry.request, entry.emitted_tokens
    decoding = emitted > 0 or entry.begun_s <= now_s
    terms = request.terms
    due_s = deadline_s(terms=terms, arrival_s=request.arrival_s, token=emitted + 1)
    return RequestRow(
        id=request.id,
        priority_class=terms.priority_class,
        weight=terms.weight,
        first_token_gain=terms.first_token_gain,
        output_token_gain=terms.output_token_gain,
        tpot_s=terms.objectives.tpot_s,
        decoding=decoding,
        resident=decoding,
        prefill_tokens=0 if decoding else request.prompt_tokens,
        context_tokens=request.prompt_tokens + emitted if decoding else 0,
        emitted_tokens=emitted,
        deadline_in_s=due_s - now_s,
    )


def _free_blocks(reading: EngineReading, own: list[Dispatched], blocks: int, block_size: int) -> int:
    if reading.kv_usage is not None:
        return round(blocks * (1 - reading.kv_usage))
    taken = [entry.request.prompt_tokens + entry.emitted_tokens for entry in own if entry.emitted_tokens]
    return max(0, blocks - sum([-(-tokens // block_size) for tokens in taken]))
