"""Which of the waiting requests can all be in time: the largest set by Moore and Hodgson, for gain density.

Source: Moore, "An n job, one machine sequencing algorithm for minimizing the number of late jobs" (Management Science
1968), with Hodgson's rule. By due time, work is added up; whenever the sum passes a due time, one request goes: there
the longest, here the one with the least gain per second of engine time, since gain is to be kept and not the number.
"""

import heapq

import numpy as np

from proserve_core.routing.gain_left import Column, Mask


def accept_set(*, work_s: Column, due_in_s: Column, density: Column) -> Mask:
    """Mask of the requests to accept.

    Args:
        work_s: time that each takes of the whole fleet.
        due_in_s: time until each is due.
        density: gain per second of engine time; the least goes first.
    """
    accepted = np.ones(len(work_s), dtype=np.bool_)
    order = np.argsort(due_in_s, kind="stable")
    finish_s = np.cumsum(work_s[order])
    late = finish_s > due_in_s[order]
    if not late.any():
        return accepted
    # All before the first late one are in time together, whatever the rest does.
    first = int(late.argmax())
    works, dues, densities = work_s.tolist(), due_in_s.tolist(), density.tolist()
    places = order.tolist()
    kept = [(densities[place], place) for place in places[:first]]
    heapq.heapify(kept)
    total_s = float(finish_s[first - 1]) if first else 0.0
    for place in places[first:]:
        heapq.heappush(kept, (densities[place], place))
        total_s += works[place]
        while kept and total_s > dues[place]:
            _, out = heapq.heappop(kept)
            accepted[out] = False
            total_s -= works[out]
    return accepted
