"""Weighted VTC: each client gets service in proportion to its weight, counted in virtual tokens.

Source: Virtual Token Counter (Sheng et al., OSDI '24), weighted variant; a baseline of ProServe. Clients are priority
classes here, and their weights are the classes'. A client's counter grows by `input_charge` per prompt token when a
request is admitted and by `output_charge` per emitted token, both divided by the weight. The next prompt is the oldest
of the client with the smallest counter. A client that comes back from idleness is lifted to the smallest counter of
those that had requests waiting, or else to that of the last one that had: idle time earns no credit.

Parameters: `input_charge` 1 and `output_charge` 2, virtual tokens per token, as in the paper. Residents run first and
are not preempted for fairness, as there. Deviations: prompts are chunked to the engine's step tokens, as in vLLM; what
ran is learned from the progress between two plans, so a request's last token is charged when it is gone, also when it
was aborted instead; a request that is preempted pays for its prompt once.
"""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from heapq import heapify, heappop, heapreplace
from itertools import chain
from math import inf

import msgspec
import numpy as np

from proserve_core.batching.decode_head import decode_head, leading_decodes
from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.request_table import EMITTED, Index, RequestTable
from proserve_core.batching.state import BatchPlan, EngineState, RequestState

_OPTIONS = FillOptions(waiting_preempts=False, preempt_self=True, admit_after_preemption=False)


class VtcOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `weighted-vtc`."""

    input_charge: float = 1.0
    """Virtual tokens per prompt token."""
    output_charge: float = 2.0
    """Virtual tokens per emitted token."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a finite number of at least 0, got {value}"
            for name, value in (("input_charge", self.input_charge), ("output_charge", self.output_charge))
            if not 0 <= value < inf
        ]
        if problems:
            raise ValueError("; ".join(problems))


class _Admission(msgspec.Struct, frozen=True):
    """A request that starts; kept because it may be gone before it is seen running."""

    id: str
    client: str
    weight: float
    prompt_tokens: int

    @classmethod
    def of(cls, request: RequestState) -> "_Admission":
        terms = request.terms
        return cls(request.id, terms.priority_class, terms.weight, request.prompt_tokens)


class _Account(msgspec.Struct):
    """What has been charged for a request that runs or ran."""

    client: str
    weight: float
    emitted: int = 0


class WeightedVtc:
    """Policy `weighted-vtc`."""

    def __init__(self, options: VtcOptions | None = None) -> None:
        self.options = options or VtcOptions()
        self.counters: dict[str, float] = {}
        """Virtual tokens per unit of weight, by client."""
        self._clients: list[str] = []
        """By the number that the table's notes have."""
        self._accounts: dict[str, _Account] = {}
        self._admitted: list[_Admission] = []
        """By the last plan."""
        self._waiting: set[str] = set()
        """Clients that had requests waiting in the last step."""
        self._left_last: str | None = None
        """Client that was last to have none waiting any more."""

    def plan(self, state: EngineState) -> BatchPlan:
        requests, residents = state.requests, state.requests.residents
        waiting = requests.rows()[len(residents) :]
        begun_again = requests.requests(waiting[requests.column(EMITTED, waiting) > 0])
        self._charge(chain(residents, begun_again), requests.by_id)
        queues = self._queues(requests, waiting)
        self._lift(queues.keys())
        head = decode_head(leading_decodes(residents), state)
        order = chain(residents[head.count :], self._by_counter(queues, requests))
        plan = fill(state, order=order, residents=residents, options=_OPTIONS, head=head)
        planned = [requests.by_id[entry.id] for entry in plan.entries if entry.id not in self._accounts]
        self._admitted = [_Admission.of(request) for request in planned]
        return plan

    def _queues(self, requests: RequestTable, waiting: Index) -> dict[str, deque[int]]:
        """Rows of those that wait, by client. Whose they are is looked up once for each request."""
        new = waiting[requests.notes(waiting, self) < 0]
        for row, request in zip(new.tolist(), requests.requests(new), strict=True):
            client = request.terms.priority_class
            if client not in self._clients:
                self._clients.append(client)
            requests.note(np.array([row]), self._clients.index(client))
        clients = requests.notes(waiting, self)
        rows = [(client, waiting[clients == number].tolist()) for number, client in enumerate(self._clients)]
        return {client: deque(queue) for client, queue in rows if queue}

    def _charge(self, begun: Iterable[RequestState], present: Container[str]) -> None:
        """Charge the progress since the last plan."""
        accounts, counters, output_charge = self._accounts, self.counters, self.options.output_charge
        for request in begun:
            account = accounts.get(request.id)
            if account is None:
                account = self._admit(_Admission.of(request))
            tokens = request.emitted_tokens - account.emitted
            if tokens:
                account.emitted += tokens
                counters[account.client] += output_charge * tokens / account.weight
        for admission in self._admitted:
            if admission.id not in present:
                self._admit(admission)
        for request_id in [request_id for request_id in accounts if request_id not in present]:
            account = accounts.pop(request_id)
            counters[account.client] += output_charge / account.weight

    def _admit(self, admission: _Admission) -> _Account:
        client, weight = admission.client, admission.weight
        self._accounts[admission.id] = account = _Account(client, weight)
        charge = self.options.input_charge * admission.prompt_tokens / weight
        self.counters[client] = self.counters.get(client, 0.0) + charge
        return account

    def _lift(self, waiting: Set[str]) -> None:
        """Raise the counters of clients that have begun to wait."""
        stayed = waiting & self._waiting
        left = self._waiting - waiting
        if left:
            self._left_last = min(left, key=lambda client: (-self.counters.get(client, 0.0), client))
        if stayed:
            least = min(self.counters.get(client, 0.0) for client in stayed)
        else:
            least = self.counters.get(self._left_last, 0.0) if self._left_last is not None else 0.0
        for client in waiting - stayed:
            self.counters[client] = max(self.counters.get(client, 0.0), least)
        self._waiting = set(waiting)

    def _by_counter(self, queues: Mapping[str, deque[int]], requests: RequestTable) -> Iterator[RequestState]:
        """Waiting requests in the order of admission, each charged to its client as soon as it is picked."""
        heap = [(self.counters[client], client) for client in queues]
        heapify(heap)
        while heap:
            counter, client = heap[0]
            request = requests.at(queues[client].popleft())
            yield request
            if queues[client]:
                charge = self.options.input_charge * request.prompt_tokens / request.terms.weight
                heapreplace(heap, (counter + charge, client))
            else:
                heappop(heap)
