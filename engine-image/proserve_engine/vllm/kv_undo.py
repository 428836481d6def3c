"""Takes back everything that was computed from KV blocks that did not come back intact.

vLLM has a way of its own for failed loads. It reckons with one step in flight, while with two, the second is computed
from the damage before the first is known to have failed. Here a request with damaged blocks is preempted and all its
output in flight dropped, as vLLM itself does when the prefix cache is reset, so no token of it ever gets out.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from proserve_engine.kv.copies import Copies, EndedCopy

_logger = logging.getLogger("vllm.proserve")


def undo(scheduler: Any, copies: Copies, failed: Sequence[EndedCopy]) -> None:
    """Preempt whoever has blocks that `failed` should have filled, and forget what these blocks hold."""
    damaged = {block for copy in failed for block in copy.blocks}
    owners = {copy.request_id for copy in failed}
    found = True
    while found:
        found = False
        for request in scheduler.running.copy():
            request_id = request.request_id
            device = scheduler.kv_cache_manager.get_block_ids(request_id)[0]
            first = next((place for place, block in enumerate(device) if block in damaged), None)
            if first is None:
                continue
            found = True
            # What was computed behind them is as wrong, and others may have found that in the prefix cache.
            damaged.update(device[first:])
            if request_id not in owners:
                # It may have copied them since. Of an owner the ledger has cut the row already.
                copies.drop(request_id)
            scheduler.running.remove(request)
            scheduler._preempt_request(request, time.monotonic(), drop_stale_output=True)
            # It may run again in the very next step: the worker has to be told its tokens anew.
            scheduler.prev_step_scheduled_req_ids.discard(request_id)
    for request in scheduler.requests.values():
        if request.num_stale_output_tokens and not request.drop_stale_output:
            # It lost its blocks while a step was in flight, and which they were is forgotten: that step is not trusted.
            request.drop_stale_output = True
            copies.drop(request.request_id)
    scheduler.kv_cache_manager.evict_blocks(damaged)
    _logger.warning("KV blocks of %s did not come back intact: they are computed again", ", ".join(sorted(owners)))
