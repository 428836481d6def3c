"""vLLM's real scheduler with a pretended worker: scheduling in full detail without a model.

The worker follows vLLM's protocol (new, cached and resumed requests, block tables) and keeps what a KV cache would
hold: each slot of each block remembers the whole prefix that was computed into it. Before a step it checks that every
slot that the step would read holds the right prefix, so blocks that were freed too early or adopted wrongly are
noticed. Its "model" turns a prefix into the next token, so outputs depend on every token before them. KV blocks that go
to the host and back are copied here, too, as late as the scheduler lets it, and some of the copies fail if a test wants
it. Run by the engine environment's interpreter only.
"""

import hashlib
import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from proserve_core.blocks.settings import KvOffload
from proserve_core.facts import encode_facts
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult, StepCopies
from proserve_engine.serve import kv_transfer_config
from proserve_engine.vllm.kv_connector import WorkerMetadata

BLOCK = 16
VOCABULARY = 1000
BLOCK_BYTES = 2 * BLOCK * 8 * 4
STEP_S = 0.01
DAMAGED = -1
"""What a slot holds after a copy that failed, or when it was computed from such slots."""


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


class PretendedCopier:
    """Copies KV slots between the device and a host.

    Args:
        kv: slots of the device.
        failing: share of the copies that fail.
    """

    def __init__(self, kv: dict[tuple[int, int], int], *, failing: float = 0.0, seed: int = 0) -> None:
        self.host: dict[tuple[int, int], int] = {}
        self.copied = 0
        """Blocks that came back."""
        self._device = kv
        self._failing = failing
        self._random = random.Random(seed)
        self._under_way: list[tuple[CopyJob, int]] = []
        self._results: dict[int, CopyResult] = {}

    def begin(self, copies: StepCopies) -> None:
        """What happens before and during the step's forward pass."""
        for job in copies.flushes:
            self._offload(job)
        for job in copies.offloads:
            # A copy behind steps reads its blocks before anything is computed, or some steps later.
            steps = self._random.randrange(-1, 3)
            if steps < 0:
                self._offload(job)
            else:
                self._under_way.append((job, steps))
        for job in copies.restores:
            intact = self._intact()
            self.copied += len(job.host) * intact
            for device, host in zip(job.device, job.host, strict=True):
                for slot in range(BLOCK):
                    self._device[device, slot] = self.host[host, slot] if intact else DAMAGED
            self._results[job.number] = CopyResult(intact=intact, copy_s=1e-3)

    def report(self) -> CopyReport:
        """What there is to say after the step."""
        waiting, self._under_way = self._under_way, []
        for job, steps in waiting:
            if steps == 0:
                self._offload(job)
            else:
                self._under_way.append((job, steps - 1))
        results, self._results = self._results, {}
        return CopyReport(results=results)

    def _offload(self, job: CopyJob) -> None:
        intact = self._intact()
        for device, host in zip(job.device, job.host, strict=True):
            for slot in range(BLOCK):
                self.host[host, slot] = self._device.get((device, slot), DAMAGED) if intact else DAMAGED
        self._results[job.number] = CopyResult(intact=intact, copy_s=1e-3)

    def _intact(self) -> bool:
        return self._random.random() >= self._failing


class PretendedWorker:
    """Executes scheduled steps in order."""

    def __init__(self) -> None:
        self.kv: dict[tuple[int, int], int] = {}
        self.copier = PretendedCopier(self.kv)
        self.sequences: dict[str, list[int]] = {}
        self.prompts: dict[str, int] = {}
        """Tokens of each prompt."""
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
            self.prompts[new.req_id] = len(new.prompt_token_ids)
            for token in new.prompt_token_ids:
                self._append(new.req_id, token)
            self.tables[new.req_id] = list(new.block_ids[0])
            starts[new.req_id] = new.num_computed_tokens
        copies = output.kv_connector_metadata.copies if output.kv_connector_metadata is not None else None
        if copies is not None:
            self.copier.begin(copies)
        cached = output.scheduled_cached_reqs
        for request_id, blocks, computed, outputs in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            # Output that was taken back because it came from damaged blocks.
            known = self.prompts[request_id] + outputs
            del self.sequences[request_id][known:], self.keys[request_id][known:]
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
            damaged = False
            for position in range(start):
                slot = (table[position // BLOCK], position % BLOCK)
                damaged = damaged or self.kv.get(slot) == DAMAGED
                if not damaged and self.kv.get(slot) != keys[position]:
                    raise AssertionError(f"{request_id}: KV of position {position} is not its own")
            for position in range(start, end):
                self.kv[table[position // BLOCK], position % BLOCK] = DAMAGED if damaged else keys[position]
            if end == len(sequence):
                self._append(request_id, VOCABULARY if damaged else next_token(sequence))
                samples.append([sequence[-1]])
            else:
                samples.append([])
        ids = list(output.num_scheduled_tokens)
        result = ModelRunnerOutput(
            req_ids=ids, req_id_to_index={request_id: i for i, request_id in enumerate(ids)}, sampled_token_ids=samples
        )
        if copies is not None:
            report = self.copier.report()
            metadata = WorkerMetadata(lambda: report)
            result.kv_connector_output = KVConnectorOutput(kv_connector_worker_meta=metadata)
        return result

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
        kv: KvOffload | None = None,
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
            scheduler_cls=scheduler_class,
            kv_transfer_config=None if kv is None else KVTransferConfig(**kv_transfer_config(kv)),
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
        if kv is not None:
            # Copies ahead of preemption are planned by the clock. With one of its own, a schedule is a function of its
            # seed, whatever else the machine does.
            self.scheduler._kv._offloading._clock = lambda: len(self.scheduled) * STEP_S
            self.scheduler._proserve._latency.observe = lambda *_: None
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
        salt: str | None = None,
        prompt_logprobs: int | None = None,
    ) -> None:
        tokens = list(range(prompt)) if isinstance(prompt, int) else list(prompt)
        arguments = dict(encode_facts(facts, age_s)) if facts is not None else {}
        parameters = SamplingParams(
            max_tokens=output,
            temperature=0,
            ignore_eos=True,
            prompt_logprobs=prompt_logprobs,
            extra_args={**arguments, **(extra or {})} or None,
        )
        request = Request(
            request_id=request_id,
            prompt_token_ids=tokens,
            sampling_params=parameters,
            pooling_params=None,
            block_hasher=self._hasher,
            cache_salt=salt,
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

    def finish_copies(self) -> None:
        """Step without requests until no copy is under way."""
        while self.scheduler.has_requests():
            self.step()
            self.drain()

    def wrong_outputs(self) -> dict[str, tuple[list[int], list[int]]]:
        """Requests whose output is not what an uninterrupted run gives: (got, expected)."""
        wrong = {}
        for request_id, (prompt, tokens) in self.prompts.items():
            expected = expected_output(prompt, tokens)
            if self.outputs[request_id] != expected:
                wrong[request_id] = (self.outputs[request_id], expected)
        return wrong
