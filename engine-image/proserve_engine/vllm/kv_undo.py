"""Takes back everything that may have been computed from KV blocks that did not come back intact.

vLLM has a way of its own for failed loads. It reckons with one step in flight, while with two, the second is computed
from the damage before the first is known to have failed. Then others may have found damaged blocks in the prefix cache,
and what was computed behind them; some have been preempted since, and which blocks they had is forgotten. So nobody is
looked for by blocks: whoever was admitted in a step that is not over and started from KV at all is preempted, all
output in flight of preempted requests is dropped, as vLLM itself does when the prefix cache is reset, and so is the
cache of free blocks. No token of it ever gets out. That others compute again as well is the price of a failure.
"""

import logging
import time
from typing import Any

from proserve_engine.vllm.kv_admissions import Admissions

_logger = logging.getLogger("vllm.proserve")


def undo(scheduler: Any, admissions: Admissions) -> None:
    """A restore has failed in the oldest step that is not over."""
    names = []
    for request in scheduler.running.copy():
        if admissions.unproven(request):
            names.append(request.request_id)
            scheduler.running.remove(request)
            scheduler._preempt_request(request, time.monotonic(), drop_stale_output=True)
            # It may run again in the very next step: the worker has to be told its tokens anew.
            scheduler.prev_step_scheduled_req_ids.discard(request.request_id)
    for request in scheduler.requests.values():
        if request.num_stale_output_tokens:
            request.drop_stale_output = True
    manager = scheduler.kv_cache_manager
    manager.evict_blocks({block.block_id for block in manager.block_pool.blocks if block.ref_cnt == 0})
    _logger.warning("KV blocks did not come back intact; computed again: %s", ", ".join(names) or "nobody")
