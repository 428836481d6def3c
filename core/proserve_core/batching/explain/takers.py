"""Who took a victim's blocks or its slot: the step's resource walk once more, when somebody asks."""

from proserve_core.batching.fill import blocks_for
from proserve_core.batching.state import BatchPlan, EngineState


def takers(state: EngineState, plan: BatchPlan) -> dict[str, str]:
    """Victim to the request that it made room for; to itself when nobody behind it was left to take from."""
    limits, by_id = state.limits, state.requests.by_id
    free, slots = state.free_blocks, limits.max_sequences - len(state.requests.residents)
    victims = list(plan.preempt)
    taken: dict[str, str] = {}
    for entry in plan.entries:
        request = by_id[entry.id]
        end = request.computed_tokens + entry.tokens
        # A prompt is admitted when all of it fits, though only its chunk's blocks are taken.
        wanted = blocks_for(end if request.resident else request.total_tokens, limits.block_size) - request.blocks
        while victims and (wanted > free or (slots <= 0 and not request.resident)):
            victim = victims.pop(0)
            taken[victim] = entry.id
            free += by_id[victim].blocks
            slots += 1
        free -= max(0, blocks_for(end, limits.block_size) - request.blocks)
        slots -= not request.resident
    return {**taken, **{victim: victim for victim in victims}}
