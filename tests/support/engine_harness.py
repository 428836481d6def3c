"""vLLM's real scheduler with a pretended worker: scheduling in full detail without a model.

The worker follows vLLM's protocol (new, cached and resumed requests, block tables) and keeps what a KV cache would
hold: each slot of each block remembers the whole prefix that was computed into it. Before a step it checks that every
slot that the step would read holds the right prefix, so blocks that were freed too early or adopted wrongly are
noticed. Its "model" turns a prefix into the next token, so outputs depend on every token before them. Run by the
engine environment's interpreter only.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from proserve_core.facts import encode_facts
from proserve_core.objectives import ServiceObjectives, ServiceTerms

BLOCK = 16
VOCABULARY = 1000


def terms(priority_class: str = "high", weight: float = 4, ttft_s: float = 0.5, tpot_s: float = 0.05) -> ServiceTerms:
    return ServiceTerms(
        priority_class=priority_class,
        weight=weight,
        first_token_gain=1,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=ttft_s, tpot_s=tpot_s),
    )


HIGH = terms()
LOW = terms("low", weight=1, ttft_s=2.0)


def next_token(prefix: Sequence[int]) -> int:
    """The pretended model: greedy, and a function of the whole prefix."""
    return int.from_bytes(hashlib.blake2b(str(list(prefix)).encode(), digest_size=4).digest()) % VOCABULARY


def expected_output(prompt: Sequence[int], tokens: int) -> list[int]:
    """What any correct schedule must produce."""
    sequence = list(prompt)
    for _ in range(tokens):
        sequence.append(next_token(sequence))
    return sequence[len(prompt) :]


class PretendedWorker:
    """Executes scheduled steps in order."""

    def __init__(self) -> None:
        self.kv: dict[tuple[int, int], int] = {}
        self.sequences: dict[str, list[int]] = {}
        self.keys: dict[str, list[int]] = {}
        """Of each position of a sequence: what the whole prefix up to it hashes to."""
        self.tables: dict[str, list[int]] = {}

    def execute(self, output: Any, requests: dict[str, Any]) -> ModelRunnerOutput:
        for finished in output.finished_req_ids:
            self.sequences.pop(finished, None)
            self.tables.pop(finished, None)
        starts: dict[str, int] = {}
        for new in output.scheduled_new_reqs:
            self.sequences[new.req_id], self.keys[new.req_id] = [], []
            for token in new.prompt_token_ids:
                self._append(new.req_id, token)
            self.tables[new.req_id] = list(new.block_ids[0])
            starts[new.req_id] = new.num_computed_tokens
        cached = output.scheduled_cached_reqs
        for request_id, blocks, computed in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            if request_id in cached.resumed_req_ids:
                self.tables[request_id] = list(blocks[0])
            elif blocks is not None:
                self.tables[request_id] += blocks[0]
            starts[request_id] = computed
        samples: list[list[int]] = []
        for request_id, count in output.num_scheduled_tokens.items():
            sequence, keys, table = self.sequences[request_id], self.keys[request_id], self.tables[request_id]
            start = starts[request_id]
            end = start + count
            if end > len(sequence):
                raise AssertionError(f"{request_id}: step computes token {end} of {len(sequence)}")
            for position in range(start):
                slot = (table[position // BLOCK], position % BLOCK)
                if self.kv.get(slot) != keys[position]:
                    raise AssertionError(f"{request_id}: KV of position {position} is not its own")
            for position in range(start, end):
                self.kv[table[position // BLOCK], position % BLOCK] = keys[position]
            if end == len(sequence):
                self._append(request_id, next_token(sequence))
                samples.append([sequence[-1]])
            else:
                samples.append([])
        ids = list(output.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=ids, req_id_to_index={request_id: i for i, request_id in enumerate(ids)}, sampled_token_ids=samples
        )

    def _append(self, request_id: str, token: int) -> None:
        keys = self.keys[request_id]
        keys.append(hash((keys[-1] if keys else None, token)))
        self.sequences[request_id].append(token)


class Engine:
    """A scheduler, a pretended worker and what came out.

    Args:
        depth: steps in flight: 1 as on CPU, 2 as with asynchronous scheduling on a GPU.
    """

    def __init__(
        self,
        scheduler_class: type,
        *,
        model: str,
        blocks: int = 1000,
        sequences: int = 16,
        step_tokens: int = 128,
        depth: int = 1,
        policy: str | None = None,
        prefix_caching: bool = True,
    ) -> None:
        if policy is not None:
            os.environ["PROSERVE_POLICY"] = policy
        config = EngineArgs(
            model=model,
            max_num_seqs=sequences,
            max_num_batched_tokens=step_tokens,
            max_model_len=4096,
            block_size=BLOCK,
            enforce_eager=True,
            enable_prefix_caching=prefix_caching,
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = blocks
        specification = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        self.scheduler: Scheduler = scheduler_class(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], specification)]
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=True,
        )
        hash_function = get_hash_fn_by_name("sha256")
        init_none_hash(hash_function)
        self._hasher = get_request_block_hasher(BLOCK, hash_function)
        self.worker = PretendedWorker()
        self.outputs: dict[str, list[int]] = {}
        self.prompts: dict[str, tuple[list[int], int]] = {}
        self.scheduled: list[dict[str, int]] = []
        """Tokens per request of each step, in vLLM's order."""
        self._depth = depth
        self._in_flight: deque[Any] = deque()
        self.on_schedule: Callable[[Any], None] | None = None

    def submit(
        self,
        request_id: str,
        *,
        prompt: Sequence[int] | int,
        output: int = 4,
        facts: ServiceTerms | None = None,
        age_s: float = 0.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        tokens = list(range(prompt)) if isinstance(prompt, int) else list(prompt)
        arguments = dict(encode_facts(facts, age_s)) if facts is not None else {}
        parameters = SamplingParams(
            max_tokens=output, temperature=0, ignore_eos=True, extra_args={**arguments, **(extra or {})} or None
        )
        request = Request(
            request_id=request_id,
            prompt_token_ids=tokens,
            sampling_params=parameters,
            pooling_params=None,
            block_hasher=self._hasher,
        )
        self.prompts[request_id] = (tokens, output)
        self.outputs[request_id] = []
        self.scheduler.add_request(request)

    def step(self) -> dict[str, int]:
        """Schedule one step, and finish the oldest in flight once there are `depth`."""
        output = self.scheduler.schedule()
        self.scheduled.append(dict(output.num_scheduled_tokens))
        if self.on_schedule is not None:
            self.on_schedule(output)
        self._in_flight.append(output)
        while len(self._in_flight) >= self._depth:
            self._finish_one()
        return self.scheduled[-1]

    def _finish_one(self) -> None:
        output = self._in_flight.popleft()
        result = self.worker.execute(output, self.scheduler.requests)
        for outputs in self.scheduler.update_from_output(output, result).values():
            for part in outputs.outputs:
                self.outputs[part.request_id] += part.new_token_ids

    def drain(self) -> None:
        """Finish what is in flight."""
        while self._in_flight:
            self._finish_one()

    def run(self, *, limit: int = 5000) -> int:
        """Step until nothing is left; number of steps."""
        for step in range(limit):
            if not self.scheduler.has_unfinished_requests():
                self.drain()
                return step
            self.step()
        raise AssertionError(f"not done after {limit} steps: {list(self.scheduler.requests)[:5]}")

    def wrong_outputs(self) -> dict[str, tuple[list[int], list[int]]]:
        """Requests whose output is not what an uninterrupted run gives: (got, expected)."""
        wrong = {}
        for request_id, (prompt, tokens) in self.prompts.items():
            expected = expected_output(prompt, tokens)
            if self.outputs[request_id] != expected:
                wrong[request_id] = (self.outputs[request_id], expected)
        return wrong
