"""What a batching policy sees and returns. The same plan drives vLLM, the emulator and the simulator."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from proserve_core.batching.request_table import RequestTable
from proserve_core.blocks.restore import ResumeModel
from proserve_core.clues import NO_CLUES, LengthClues
from proserve_core.latency import LatencyModel
from proserve_core.objectives import ServiceTerms


class PlanEntry(msgspec.Struct, frozen=True, gc=False):
    """`tokens` new tokens of request `id` in the step."""

    id: str
    tokens: int


class RequestState(msgspec.Struct, kw_only=True, gc=False):
    """One request as the engine knows it. Kept by whoever runs the engine; policies only read it.

    A preempted request is not resident, holds no blocks and has `computed_tokens` 0 (or what a prefix cache would
    give back); its emitted tokens count as prompt when it is prefilled again.
    """

    id: str
    arrival_s: float
    """Arrival at the front door, on the engine's clock; TDG deadlines count from here."""
    terms: ServiceTerms
    prompt_tokens: int
    computed_tokens: int = 0
    """Tokens whose KV is on the device (for a request that is not resident: cached prefix it would start from)."""
    host_tokens: int = 0
    """The last so many of `computed_tokens` would first come back from the host. Only of who is not resident."""
    emitted_tokens: int = 0
    blocks: int = 0
    """Device blocks held."""
    copying_blocks: int = 0
    """Those of them that a copy to the host reads: a preemption frees them only when the copy ends."""
    copied_blocks: int = 0
    """Those, from the first on, that would come back from the host if it were preempted. Only of residents."""
    flush_blocks: int = 0
    """The last so many of `copied_blocks` would first be copied to the host, and the step wait for that."""
    resident: bool = False
    """Admitted to the engine's running set (holds a sequence slot)."""
    preemptions: int = 0
    first_token_s: float | None = None
    clues: LengthClues = NO_CLUES
    one_token: PlanEntry = PlanEntry("", 1)
    """Its entry in a step in which it decodes: made once, because most entries are these."""

    def __post_init__(self) -> None:
        self.one_token = PlanEntry(self.id, 1)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.emitted_tokens

    @property
    def pending_tokens(self) -> int:
        """Tokens still to compute before the next token can be emitted; 1 for a decode."""
        return self.prompt_tokens + self.emitted_tokens - self.computed_tokens

    @property
    def is_decode(self) -> bool:
        return (
            self.resident
            and self.emitted_tokens > 0
            and self.prompt_tokens + self.emitted_tokens - self.computed_tokens == 1
        )

    def next_deadline_s(self) -> float:
        """TDG deadline of the next token (ProServe, section 3)."""
        objectives = self.terms.objectives
        return self.arrival_s + objectives.ttft_s + self.emitted_tokens * objectives.tpot_s

    def next_token_gain(self) -> float:
        terms = self.terms
        return terms.weight * (terms.output_token_gain if self.emitted_tokens else terms.first_token_gain)


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Hard limits of an engine."""

    block_size: int
    """Tokens per KV block."""
    blocks: int
    """Usable device blocks."""
    max_sequences: int
    """Resident requests at a time."""
    max_step_tokens: int
    """New tokens in one step."""


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a policy may look at when it plans the next step."""

    now_s: float
    requests: RequestTable
    """Waiting, prefilling, decoding and preempted requests, in order of arrival at the engine."""
    limits: EngineLimits
    free_blocks: int
    """Device blocks that can be allocated without preempting anybody."""
    latency: LatencyModel
    resume: ResumeModel | None = None
    """How blocks come back from the host; None where none are kept there."""


class Reason(StrEnum):
    """Why a request does not run in the step. Closed list."""

    STEP_TIME = "the step's time budget is used up"
    STEP_TOKENS = "the step's token limit is reached"
    SEQUENCES = "the sequence limit is reached"
    BLOCKS = "not enough free KV blocks"
    PREEMPTED = "its blocks went to a request ahead of it"
    BEHIND = "a request ahead of it does not fit and the policy does not skip"
    SCHEDULED = "runs in this step"


class Restore(msgspec.Struct, frozen=True, gc=False):
    """The first `blocks` blocks of request `id` come back from the host."""

    id: str
    blocks: int


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What runs in the next step."""

    entries: tuple[PlanEntry, ...] = ()
    """In order of importance; resource needs are met in this order."""
    preempt: tuple[str, ...] = ()
    """Residents that lose their blocks before the step, in the order in which they are taken."""
    restores: tuple[Restore, ...] = ()
    """Of those that it brings back, said by whoever runs the engine (`blocks.returns`)."""
    predicted_s: float = 0.0
    """Duration of the step with the copies that it waits for."""
    order: tuple[str, ...] = ()
    """Residents after the step's admissions and preemptions, most important first, those that pause at the end: decides
    the victim if the engine runs out of blocks unexpectedly."""
    waits: Mapping[str, Reason] = msgspec.field(default_factory=dict)
    """Requests that were looked at and left out."""
    rest: Reason = Reason.BEHIND
    """Why requests run in neither `entries` nor `waits`: where the fill stopped."""

    def reason(self, request_id: str) -> Reason:
        """Why the request runs or does not run in this step."""
        if request_id in self.waits:
            return self.waits[request_id]
        if any(entry.id == request_id for entry in self.entries):
            return Reason.SCHEDULED
        return self.rest
