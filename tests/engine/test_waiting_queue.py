"""The planner's waiting queue keeps vLLM's order, and can be told who comes first."""

import random
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

from vllm.v1.core.sched.request_queue import FCFSRequestQueue

from proserve_engine.vllm.waiting_queue import PlannedQueue


class Named:
    """Stands for a request: equal only to itself."""

    def __init__(self, number: int) -> None:
        self.number = number


def numbers(queue: Any) -> list[int]:
    return [request.number for request in queue]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_done_to_both_it_is_in_the_order_of_vllms_own_queue(seed: int) -> None:
    draw = random.Random(seed)
    ours, theirs = PlannedQueue(), FCFSRequestQueue()
    for number in range(200):
        act = draw.randrange(6)
        some = draw.sample(list(theirs), min(len(theirs), 3))
        if act <= 1:
            new = Named(number)
            ours.add_request(new)
            theirs.add_request(new)
        elif act == 2:
            new = Named(number)
            ours.prepend_request(new)
            theirs.prepend_request(new)
        elif act == 3 and theirs:
            assert ours.peek_request() is theirs.peek_request()
            assert ours.pop_request() is theirs.pop_request()
        elif act == 4 and some:
            ours.remove_request(some[0])
            theirs.remove_request(some[0])
            ours.prepend_requests(some[:1])
            theirs.prepend_requests(some[:1])
        elif act == 5:
            gone = [*some, Named(-1)]
            ours.remove_requests(gone)
            theirs.remove_requests(gone)
        assert numbers(ours) == numbers(theirs)
        assert (len(ours), bool(ours)) == (len(theirs), bool(theirs))


def test_those_brought_forward_come_first_in_the_order_given_and_the_others_keep_theirs() -> None:
    requests = [Named(number) for number in range(6)]
    queue = PlannedQueue(requests)
    queue.bring_forward([requests[4], requests[2]])
    assert numbers(queue) == [4, 2, 0, 1, 3, 5]


def test_an_empty_queue_has_nobody_to_give() -> None:
    queue = PlannedQueue()
    with pytest.raises(IndexError, match="empty queue"):
        queue.peek_request()
    with pytest.raises(KeyError):
        queue.pop_request()
