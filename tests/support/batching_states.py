"""Random engine states and all variants of the policies: what the conformance suites of batching run over."""

from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine_builders import H100_LLAMA_8B, MILLISECOND_PER_TOKEN, service_terms
from proserve_core.batching import EngineLimits, EngineState, RequestState
from proserve_core.batching.fill import blocks_for
from proserve_core.batching.registry import POLICIES
from proserve_core.batching.request_table import RequestTable
from proserve_core.blocks import CopyCosts, Overlap, ResumeModel
from proserve_core.latency import LatencyModel

VARIANTS: list[tuple[str, Mapping[str, object]]] = [
    *[(name, {}) for name in POLICIES],
    ("qoserve", {"deadline": "fixed", "a": 0.0}),
    ("sliding-serve", {"sliding": False, "knapsack": False, "own_predictor": False, "aging_s": 1.0}),
    ("slide-batching", {"deadline": "first-token"}),
    ("slide-batching", {"decodes_first": False}),
    ("slide-batching", {"starvation": "lateness", "starvation_slos": 0.5}),
    ("slide-batching", {"starvation": "wait", "starvation_wait_s": 1.0}),
    ("slide-batching", {"skip": True}),
    ("slide-batching", {"skip": True, "min_chunk": 1, "urgency": 0.01}),
]
every_policy = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=[f"{name}-{'-'.join(map(str, options.values()))}" for name, options in VARIANTS]
)
few_examples = settings(max_examples=25)
"""Each property runs over every variant, so a few examples each make many in all, in seconds."""

SLOW = LatencyModel(
    host_s=0.5,
    floor_s=0.0,
    linear_base_s=0.1,
    linear_token_s=0.01,
    attention_s=1e-5,
    context_s=1e-4,
    sequence_s=1e-3,
)
"""Steps longer than any deadline: every time budget is too short."""

TERMS = [
    service_terms(weight, ttft_s=ttft_s, tpot_s=tpot_s, first_token_gain=first_token_gain)
    for weight in (1.0, 2.0, 10.0)
    for ttft_s in (0.1, 1.0, 30.0)
    for tpot_s in (0.01, 0.05, 1.0)
    for first_token_gain in (1.0, 10.0)
]
terms_strategy = st.sampled_from(TERMS)
CONSTANT = LatencyModel(
    host_s=0.01,
    floor_s=0.0,
    linear_base_s=0.0,
    linear_token_s=0.0,
    attention_s=0.0,
    context_s=0.0,
    sequence_s=0.0,
)
"""What a fit may give when all steps took the same time."""
latency_strategy = st.sampled_from([H100_LLAMA_8B, MILLISECOND_PER_TOKEN, SLOW, CONSTANT])


REQUEST = (
    st.integers(1, 120),  # prompt tokens
    st.one_of(st.just(0), st.integers(0, 40)),  # emitted tokens
    st.sampled_from([0, 0, 30, 99]),  # percent computed; of a waiting request: cached
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.04, 0.5, 1.5, 50.0]),  # age, seconds
    terms_strategy,
)


resume_strategy = st.sampled_from(
    [
        None,
        *(
            ResumeModel(
                block_size=1,
                costs=CopyCosts(start_s=1e-5, block_s=block_s),
                latency=MILLISECOND_PER_TOKEN,
                overlap=Overlap(layers=4),
            )
            for block_s in (1e-5, 1e-2)
        ),
    ]
)
"""How blocks come back from the host, by a quick and by a slow link; `engine_states` sets block size and latency."""


@st.composite
def engine_states(draw: st.DrawFn) -> EngineState:
    """States that an engine can be in: any mix of stages, blocks that add up, nobody too large for an empty engine."""
    block_size = draw(st.sampled_from([1, 4, 16]))
    max_sequences = draw(st.integers(1, 8))
    now_s = draw(st.floats(0.0, 100.0))
    requests: list[RequestState] = []
    residents = 0
    # One draw per request: many small draws are what a run of this suite spends its time on.
    drawn = draw(st.lists(st.tuples(*REQUEST), max_size=12))
    for number, (prompt, emitted, share, may_reside, may_decode, age_s, terms) in enumerate(drawn):
        resident = may_reside and residents < max_sequences
        residents += resident
        total = prompt + emitted
        computed = total - 1 if resident and emitted and may_decode else min(total - 1, total * share // 100)
        requests.append(
            RequestState(
                id=f"r{number}",
                arrival_s=now_s - age_s,
                terms=terms,
                prompt_tokens=prompt,
                computed_tokens=computed,
                emitted_tokens=emitted,
                blocks=blocks_for(computed, block_size) if resident else 0,
                resident=resident,
                preemptions=int(emitted > 0 and not resident),
                first_token_s=now_s - age_s / 2 if emitted else None,
            )
        )
    resume = draw(resume_strategy)
    if resume is not None:
        for request in requests:
            if request.resident:
                request.copied_blocks = (request.computed_tokens // block_size) // 2
            else:
                request.computed_tokens -= request.computed_tokens % block_size
                request.host_tokens = request.computed_tokens
    held = sum(request.blocks for request in requests)
    largest = max((blocks_for(request.total_tokens + 1, block_size) for request in requests), default=1)
    blocks = max(held, largest) + draw(st.sampled_from([0, 0, 1, 5, 1000]))
    latency = draw(latency_strategy)
    return EngineState(
        now_s=now_s,
        requests=RequestTable(requests),
        limits=EngineLimits(
            block_size=block_size,
            blocks=blocks,
            max_sequences=max_sequences,
            max_step_tokens=draw(st.sampled_from([1, 7, 60, 8192])),
        ),
        free_blocks=blocks - held,
        latency=latency,
        resume=resume and replace(resume, block_size=block_size, latency=latency),
    )
