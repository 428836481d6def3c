"""vLLM's waiting queue with a front that costs nothing to change.

vLLM keeps waiting requests in a deque. A plan may admit any of them, and to bring one from the middle of a deque to its
front means to rebuild it: 0.2 ms when 2,000 wait, in each step that admits somebody. Here they are keys of an ordered
dictionary. The order is the same: first come, first served, preempted requests at the front.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue


class PlannedQueue(RequestQueue):
    """Waiting requests, the next one first."""

    def __init__(self, requests: Iterable[Any] = ()) -> None:
        self._requests: OrderedDict[Any, None] = OrderedDict.fromkeys(requests)

    def bring_forward(self, requests: Sequence[Any]) -> None:
        """Put requests of the queue first, in the order given."""
        for request in reversed(requests):
            self._requests.move_to_end(request, last=False)

    def add_request(self, request: Any) -> None:
        self._requests[request] = None

    def pop_request(self) -> Any:
        return self._requests.popitem(last=False)[0]

    def peek_request(self) -> Any:
        for request in self._requests:
            return request
        raise IndexError("peek from an empty queue")

    def prepend_request(self, request: Any) -> None:
        self._requests[request] = None
        self._requests.move_to_end(request, last=False)

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """The last one given is first afterwards, as in vLLM."""
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Any) -> None:
        del self._requests[request]

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """Those that are not in the queue are none of its business, as in vLLM."""
        for request in requests:
            self._requests.pop(request, None)

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._requests)
