"""vLLM's requests in the planner's terms.

One `RequestState` per request, kept for its whole life and brought up to date in place: per step only residents change,
so the cost of a step does not grow with the queue.

Not every request is the planner's business. vLLM keeps some in states of its own (waiting for a remote KV transfer, for
a grammar, for the next part of a streamed input, for output that is still in flight). These are left out of the
planner's view and vLLM treats them as it always does.
"""

import hashlib
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from proserve_core.batching import RequestState
from proserve_core.batching.request_table import RequestTable
from proserve_core.blocks.way_back import WayBack
from proserve_core.clues import LengthClues
from proserve_core.facts import FactsError, RequestFacts, decode_facts, default_terms

RUNNABLE_STATUSES = frozenset({"WAITING", "PREEMPTED"})
GRAMMAR_STATUS = "WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR"
PREFIX_TOKENS = 64
"""Of a prompt, by which those with the same system prompt know each other: a chat template and a sentence or two."""


class HostBlocks(Protocol):
    """What the host has of requests."""

    def prefix_tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens that a waiting request would start from, given those that the device has."""

    def way_back(self, request: Any) -> tuple[WayBack, int]:
        """Of a resident: blocks that would come back if it were preempted, and blocks that a copy reads."""


class Tracker:
    """Keeps the `RequestState` of every request that the planner may schedule. Times are on `clock`.

    Args:
        block_size: tokens per block.
        cached_prefix: looks up how many tokens of a request the device's prefix cache would give back.
        bad_facts: told why a request's class facts are unusable; it then runs in the default class.
    """

    def __init__(
        self,
        *,
        block_size: int,
        cached_prefix: Callable[[Any], int],
        bad_facts: Callable[[str, FactsError], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = RequestTable()
        """What the planner sees, in order of arrival at the engine; the hidden ones are left out since `refresh`."""
        self.states = self.table.by_id
        """All tracked requests by id."""
        self.hidden: set[str] = set()
        """Tracked requests that vLLM would not run in the coming step; refreshed by `refresh`."""
        self.held_slots = 0
        """Running requests that are not in the planner's view and keep a sequence slot; refreshed by `refresh`."""
        self.host: HostBlocks | None = None
        """None: what is not on the device is gone."""
        self.with_facts = 0
        """Tracked requests that carry class facts."""
        self._block_size = block_size
        self._cached_prefix = cached_prefix
        self._bad_facts = bad_facts
        self._clock = clock
        self._wall_clock = wall_clock
        self._classified: set[str] = set()
        self._delicate: dict[str, Any] = {}
        self._stale_prefixes: dict[str, Any] = {}

    def add(self, request: Any) -> None:
        """Take in a request that vLLM has queued. Streamed inputs stay vLLM's business."""
        if request.resumable or request.request_id in self.states:
            return
        request_id: str = request.request_id
        facts = self._facts(request)
        computed_tokens, host_tokens = self._start(request)
        # vLLM stamps a request in its API process; until the engine takes it in, it waited for a step to end.
        in_vllm_s = max(0.0, self._wall_clock() - request.arrival_time)
        self.table.add(
            RequestState(
                id=request_id,
                arrival_s=self._clock() - in_vllm_s - (facts.age_s if facts else 0.0),
                terms=facts.terms if facts else default_terms(),
                prompt_tokens=request.num_prompt_tokens,
                computed_tokens=computed_tokens,
                host_tokens=host_tokens,
                clues=LengthClues(
                    client=facts.client if facts else "",
                    prefix=_prefix(request.prompt_token_ids),
                    max_tokens=request.max_tokens,
                ),
            )
        )
        if facts is not None:
            self._classified.add(request_id)
            self.with_facts += 1
        if request.structured_output_request is not None:
            self._delicate[request_id] = request
        self._stale_prefixes[request_id] = request

    def remove(self, request_id: str) -> None:
        """Forget a finished request."""
        if request_id not in self.states:
            return
        self.table.remove(request_id)
        if request_id in self._classified:
            self._classified.remove(request_id)
            self.with_facts -= 1
        self.hidden.discard(request_id)
        self._delicate.pop(request_id, None)
        self._stale_prefixes.pop(request_id, None)

    def preempted(self, request: Any) -> None:
        """The request lost its blocks and waits again."""
        state = self.states.get(request.request_id)
        if state is None:
            return
        state.resident = False
        state.preemptions += 1
        state.blocks = state.copied_blocks = state.flush_blocks = state.copying_blocks = 0
        state.emitted_tokens = request.num_output_tokens
        state.computed_tokens, state.host_tokens = self._start(request)
        self.table.update(state)
        self._delicate[request.request_id] = request
        self._stale_prefixes[request.request_id] = request

    def look_again(self, request: Any) -> None:
        """What a waiting request would start from has changed."""
        state = self.states.get(request.request_id)
        if state is not None and not state.resident:
            self._look_up_prefix(state, request)

    def admitted(self, request_id: str) -> None:
        """vLLM has scheduled the request; `refresh` would find out one step later."""
        state = self.states.get(request_id)
        if state is not None and not state.resident:
            state.resident, state.host_tokens = True, 0
            self.table.update(state)

    def refresh(self, running: Iterable[Any], *, set_aside: Iterable[Any], next_step: int) -> None:
        """Bring residents up to date and find out whom vLLM would pass over in step `next_step`.

        Args:
            set_aside: waiting requests that vLLM keeps apart from its queue.
        """
        states, block_size, hidden, host = self.states, self._block_size, self.hidden, self.host
        hidden.clear()
        held_slots = 0
        for request in running:
            request_id = request.request_id
            state = states.get(request_id)
            if state is None:
                held_slots += 1
                continue
            computed = request.num_computed_tokens
            emitted = request.num_output_tokens
            state.computed_tokens = computed
            state.emitted_tokens = emitted
            state.blocks = -(-computed // block_size)
            if host is not None:
                back, state.copying_blocks = host.way_back(request)
                state.copied_blocks, state.flush_blocks = back
            in_flight = request.num_output_placeholders
            if in_flight:
                # Under asynchronous scheduling these count as emitted: the next step makes the one after them.
                state.emitted_tokens = emitted + in_flight
            if state.first_token_s is None or not state.resident:
                self._began(state, has_output=emitted > 0)
            if (
                in_flight and computed + 2 - in_flight >= request.num_prompt_tokens + request.max_tokens
            ) or next_step < request.next_decode_eligible_step:
                hidden.add(request_id)
                held_slots += 1
        self.held_slots = held_slots
        if self._delicate:
            self._refresh_delicate()
        for request in set_aside:
            if request.request_id in states and (request.num_computed_tokens > 0 or not runnable(request)):
                hidden.add(request.request_id)
        if self._stale_prefixes:
            self._refresh_one_prefix()
        self.table.hide(hidden)

    def _began(self, state: RequestState, *, has_output: bool) -> None:
        """Note that a running request is resident, and when its first token came."""
        started = has_output and state.first_token_s is None
        if started:
            state.first_token_s = self._clock()
        if started or not state.resident:
            state.resident, state.host_tokens = True, 0
            self.table.update(state)

    def _refresh_delicate(self) -> None:
        for request_id, request in list(self._delicate.items()):
            status = request.status.name
            if status == "RUNNING":
                del self._delicate[request_id]
                continue
            # The output of a step that was in flight when the request was preempted came in since.
            state = self.states[request_id]
            if state.emitted_tokens != request.num_output_tokens:
                state.emitted_tokens = request.num_output_tokens
                self.table.update(state)
            if not runnable(request):
                self.hidden.add(request_id)

    def _refresh_one_prefix(self) -> None:
        """Look one waiting request's cached prefix up again, in turns: what others computed or evicted changes it."""
        request_id, request = next(iter(self._stale_prefixes.items()))
        del self._stale_prefixes[request_id]
        state = self.states[request_id]
        if not state.resident:
            self._look_up_prefix(state, request)
            self._stale_prefixes[request_id] = request

    def _look_up_prefix(self, state: RequestState, request: Any) -> None:
        start = self._start(request)
        if start != (state.computed_tokens, state.host_tokens):
            state.computed_tokens, state.host_tokens = start
            self.table.update(state)

    def _start(self, request: Any) -> tuple[int, int]:
        """Tokens that a waiting request would start from, and how many of them would come back from the host."""
        device_tokens = self._cached_prefix(request)
        if self.host is None:
            return device_tokens, 0
        tokens = self.host.prefix_tokens(request, device_tokens)
        return tokens, tokens - device_tokens

    def _facts(self, request: Any) -> RequestFacts | None:
        parameters = request.sampling_params
        try:
            return decode_facts(parameters.extra_args if parameters is not None else None)
        except FactsError as error:
            self._bad_facts(request.request_id, error)
            return None


def _prefix(token_ids: Sequence[int] | None) -> str:
    """The same for prompts that begin alike, now and in later processes (vLLM's block hashes have a random seed)."""
    if token_ids is None or len(token_ids) < PREFIX_TOKENS:
        return ""
    return hashlib.blake2b(array("q", token_ids[:PREFIX_TOKENS]).tobytes(), digest_size=8).hexdigest()


def runnable(request: Any) -> bool:
    """Whether vLLM would run this waiting request if it were first in the queue."""
    status = request.status.name
    if status == GRAMMAR_STATUS:
        grammar = getattr(request.structured_output_request, "grammar", None)
        return grammar is not None and not isinstance(grammar, Exception)
    if status not in RUNNABLE_STATUSES:
        return False
    # Output of a preempted request that is still in flight is delivered before the request may run again.
    return not (request.num_stale_output_tokens and not request.drop_stale_output)


def needs_vllm(request: Any) -> bool:
    """Whether vLLM has to look at this waiting request soon although it cannot run: to fail it."""
    return request.status.name == GRAMMAR_STATUS and isinstance(request.structured_output_request.grammar, Exception)
