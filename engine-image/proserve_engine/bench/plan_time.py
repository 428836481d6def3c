"""Planning against scheduling: what ProServe adds to vLLM's own `schedule()`, both measured in the same steps.

`python -m proserve_engine.bench.plan_time` drives vLLM's real scheduler without a model. Per step it times the plan
(bring the requests up to date, the policy, shape the scheduler) and the `schedule()` of vLLM that follows. Requests of
two classes come and go, so steps mix decodes, prefills and admissions. Times are CPU time of the thread, so a busy
machine changes the ratio little. Targets: plan < schedule() at 16, 64 and 256 running requests for the policies that
pools use, and for every policy a p99 below 1 ms at 256 running and 2,000 waiting.

A p99 is also what the machine makes of it: others on its cores and caches stretch some steps. So between two steps the
same small piece of work is timed, a loop that depends on nothing; how far its p99 is above its p50 is told beside each
result. It does not change the verdict.
"""

import argparse
import gc
import itertools
import json
import os
import random
import sys
import time
from typing import Any

import msgspec

from proserve_core.batching.registry import POLICIES
from proserve_core.facts import encode_facts
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_engine.tiny_model import resolve_model
from proserve_engine.vllm.settings import POLICY

COMPARED = ("fcfs", "priority", "slide-batching", "recoverable-gain")
"""Against schedule(), at each of `RUNNING`."""
RUNNING = (16, 64, 256)
BLOCK = 16
WARM_UP_STEPS = 100
FEW, MANY = 20, 2000
"""Waiting requests."""
TARGET_P99_US = 1000.0
CONSTANT_WORK = 20_000
"""Turns of a loop that takes about as long as a plan."""


class Row(msgspec.Struct, kw_only=True):
    """One measured case. Times in microseconds per step."""

    policy: str
    running: int
    waiting: int
    steps: int
    plan_p50_us: float
    plan_p99_us: float
    schedule_p50_us: float
    schedule_p99_us: float
    ratio: float
    """Median of plan over median of schedule()."""
    constant_p50_us: float
    """Of the same work in each step."""
    constant_p99_us: float

    @property
    def verdict(self) -> str:
        """Ratio or p99 next to its target."""
        if self.waiting < MANY:
            return f"ratio {self.ratio:.2f}, target < 1 ({'met' if self.ratio < 1 else 'missed'})"
        met = self.plan_p99_us < TARGET_P99_US
        return f"p99 {self.plan_p99_us:.0f} us, target < {TARGET_P99_US:.0f} us ({'met' if met else 'missed'})"


def measure(policy: str, *, running: int, waiting: int, steps: int, seed: int = 0) -> Row:
    """Time `steps` steps with about `running` running and `waiting` waiting requests."""
    os.environ[POLICY] = policy
    scheduler, hasher = _scheduler(running), _block_hasher()
    # `fcfs` leaves scheduling to vLLM; here its plan is made all the same, to see what planning alone costs.
    scheduler._proserve.adapter._never_plans = False
    draw = random.Random(seed)
    numbers = itertools.count()
    # As vLLM's engine does once it has started: what is there for good is no work for the garbage collector.
    gc.collect()
    gc.freeze()
    plan_s: list[float] = []
    schedule_s: list[float] = []
    constant_s: list[float] = []
    for step in range(WARM_UP_STEPS + steps):
        while len(scheduler.requests) < running + waiting:
            scheduler.add_request(_request(next(numbers), draw, hasher))
        start_s = time.thread_time()
        scheduler._proserve.before_schedule()
        planned_s = time.thread_time()
        output = scheduler.plain_schedule()
        done_s = time.thread_time()
        scheduler._proserve.after_schedule(output)
        scheduler.update_from_output(output, _result(output, scheduler))
        if step >= WARM_UP_STEPS:
            plan_s.append(planned_s - start_s)
            schedule_s.append(done_s - planned_s)
            constant_s.append(_constant_work_s())
    plan_s.sort()
    schedule_s.sort()
    constant_s.sort()
    middle, high = steps // 2, int(steps * 0.99)
    return Row(
        policy=policy,
        running=running,
        waiting=waiting,
        steps=steps,
        plan_p50_us=plan_s[middle] * 1e6,
        plan_p99_us=plan_s[high] * 1e6,
        schedule_p50_us=schedule_s[middle] * 1e6,
        schedule_p99_us=schedule_s[high] * 1e6,
        ratio=plan_s[middle] / schedule_s[middle],
        constant_p50_us=constant_s[middle] * 1e6,
        constant_p99_us=constant_s[high] * 1e6,
    )


def _constant_work_s() -> float:
    start_s = time.thread_time()
    for _ in range(CONSTANT_WORK):
        pass
    return time.thread_time() - start_s


def _scheduler(running: int) -> Any:
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from proserve_engine.vllm.scheduler import ProServeScheduler

    class Measured(ProServeScheduler):
        def plain_schedule(self) -> Any:
            return Scheduler.schedule(self)

    config = EngineArgs(
        model=resolve_model("generated://tiny"),
        max_num_seqs=running,
        max_num_batched_tokens=2048,
        max_model_len=8192,
        block_size=BLOCK,
        enforce_eager=True,
    ).create_engine_config()
    blocks = 100 * running
    config.cache_config.num_gpu_blocks = blocks
    specification = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
    return Measured(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], specification)]
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
        log_stats=True,
    )


def _block_hasher() -> Any:
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    function = get_hash_fn_by_name("sha256")
    init_none_hash(function)
    return get_request_block_hasher(BLOCK, function)


def _request(number: int, draw: random.Random, hasher: Any) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    terms = ServiceTerms(
        priority_class="high" if number % 2 else "low",
        weight=4 if number % 2 else 1,
        first_token_gain=1,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.05),
    )
    return Request(
        request_id=f"chatcmpl-{number:032x}",
        prompt_token_ids=[number % 1000] * draw.randrange(50, 800),
        sampling_params=SamplingParams(
            max_tokens=draw.randrange(100, 400), ignore_eos=True, extra_args=dict(encode_facts(terms, 0.0))
        ),
        pooling_params=None,
        block_hasher=hasher,
    )


def _result(output: Any, scheduler: Any) -> Any:
    from vllm.v1.outputs import ModelRunnerOutput

    ids = list(output.num_scheduled_tokens)
    requests = scheduler.requests
    tokens = [[1] if requests[i].num_computed_tokens >= requests[i].num_tokens else [] for i in ids]
    return ModelRunnerOutput(
        req_ids=ids, req_id_to_index={request_id: i for i, request_id in enumerate(ids)}, sampled_token_ids=tokens
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proserve_engine.bench.plan_time", description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.add_argument("--policy", action="append", choices=sorted(POLICIES), help="only this one; may be repeated")
    options = parser.parse_args()
    chosen = options.policy or sorted(POLICIES)
    cases = [(policy, running, FEW) for running in RUNNING for policy in COMPARED if policy in chosen]
    cases += [(policy, RUNNING[-1], MANY) for policy in chosen]
    rows = []
    for policy, running, waiting in cases:
        rows.append(measure(policy, running=running, waiting=waiting, steps=options.steps))
        sys.stderr.write(f"measured {policy} at {running} running, {waiting} waiting\n")
    if options.json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(rows), indent=2) + "\n")
        return
    sys.stdout.write(
        f"{'policy':<18}{'running':>8}{'waiting':>8}{'plan p50':>11}{'p99':>9}{'schedule p50':>14}{'p99':>9}"
        f"{'same work p50':>15}{'p99':>9}  result\n"
    )
    for row in rows:
        sys.stdout.write(
            f"{row.policy:<18}{row.running:>8}{row.waiting:>8}{row.plan_p50_us:>8.0f} us{row.plan_p99_us:>6.0f} us"
            f"{row.schedule_p50_us:>11.0f} us{row.schedule_p99_us:>6.0f} us"
            f"{row.constant_p50_us:>12.0f} us{row.constant_p99_us:>6.0f} us  {row.verdict}\n"
        )


if __name__ == "__main__":
    main()
