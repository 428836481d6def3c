"""An engine in this process that `proserve bench kv` drives step by step, and a policy that does what it is told."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from proserve_core.batching import BatchPlan, EngineState, PlanEntry
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_core.facts import encode_facts
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_engine.serve import SYNC_CLASS, UNIPROC_EXECUTOR, Device, detect_device, kv_transfer_config
from proserve_engine.tiny_model import URI_SCHEME, resolve_model

CPU_BLOCK = 32
"""As `proserve engine serve` has it."""
SEQUENCES = 16
_TERMS = ServiceTerms(
    priority_class="bench",
    weight=1,
    first_token_gain=1,
    output_token_gain=1,
    objectives=ServiceObjectives(ttft_s=10, tpot_s=1),
)


class Director:
    """Runs everybody but those who are held; whoever begins to be held loses its blocks."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    def plan(self, state: EngineState) -> BatchPlan:
        entries: list[PlanEntry] = []
        left = state.limits.max_step_tokens
        for request in state.requests:
            tokens = min(request.pending_tokens, left)
            if request.id not in self.held and tokens:
                entries.append(PlanEntry(request.id, tokens))
                left -= tokens
        victims = tuple(each.id for each in state.requests if each.resident and each.id in self.held)
        return BatchPlan(entries=tuple(entries), preempt=victims)


class KvEngine:
    """vLLM with ProServe's connector: a victim's blocks are copied when it is preempted, and all of them come back.

    Args:
        longest: tokens of the longest context.
        host_memory: quantity for blocks on the host.
    """

    def __init__(self, model: str, *, longest: int, host_memory: str) -> None:
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PROSERVE_POLICY": "priority"}
        generated = model.startswith(URI_SCHEME)
        if generated:
            os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        cpu = detect_device(sys.executable) is Device.CPU
        options: dict[str, Any] = {"gpu_memory_utilization": 0.7}
        if cpu:
            os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1"}
            options = {"enforce_eager": True, "block_size": CPU_BLOCK, "distributed_executor_backend": UNIPROC_EXECUTOR}
        if generated:
            options["dtype"] = "float32"

        from vllm import LLM, SamplingParams
        from vllm.config import KVTransferConfig
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        from proserve_engine.vllm.kv_connector import block_bytes_of

        settings = KvOffload(host_memory=host_memory, offload=Offload.ON_PREEMPT, copy_budget=CopyBudget.UNLIMITED)
        self._parameters = SamplingParams
        llm = LLM(
            resolve_model(model),
            max_model_len=longest + 256,
            max_num_seqs=SEQUENCES,
            # A whole context is computed again in one step.
            max_num_batched_tokens=longest + SEQUENCES,
            enable_prefix_caching=False,
            async_scheduling=False,
            disable_log_stats=False,
            scheduler_cls=SYNC_CLASS,
            kv_transfer_config=KVTransferConfig(**kv_transfer_config(settings)),
            **options,
        )
        self._engine = llm.llm_engine
        self.scheduler: Any = self._engine.engine_core.engine_core.scheduler
        self.kv: Any = self.scheduler._kv
        self.worker: Any = get_kv_transfer_group().worker
        config = self.scheduler.vllm_config
        self.device = config.device_config.device
        self.vocabulary: int = config.model_config.get_vocab_size()
        self.block_size: int = self.scheduler.block_size
        self.block_bytes = block_bytes_of(config, self.scheduler.kv_cache_config)
        self.director = Director()
        self.scheduler._proserve.adapter._policy = self.director
        self.outputs: dict[str, list[int]] = {}

    def submit(self, request_id: str, prompt: Sequence[int], *, output: int) -> None:
        """A greedy request of exactly `output` tokens."""
        parameters = self._parameters(
            max_tokens=output, temperature=0, ignore_eos=True, extra_args=dict(encode_facts(_TERMS, 0.0))
        )
        self.outputs[request_id] = []
        self._engine.add_request(request_id, {"prompt_token_ids": list(prompt)}, parameters)

    def abort(self, request_id: str) -> None:
        self._engine.abort_request([request_id])
        del self.outputs[request_id]

    def step(self) -> float:
        """One step; how long it took, seconds."""
        began_s = time.perf_counter()
        results = self._engine.step()
        took_s = time.perf_counter() - began_s
        for result in results:
            if result.request_id in self.outputs:
                self.outputs[result.request_id] = list(result.outputs[0].token_ids)
        return took_s

    def until(self, request_id: str, tokens: int) -> float:
        """Steps until the request has so many output tokens; how long they took, seconds."""
        took_s = 0.0
        while len(self.outputs[request_id]) < tokens:
            took_s += self.step()
        return took_s

    def finish_copies(self) -> None:
        """Steps until no copy is under way."""
        while self.kv.copies.under_way:
            self.step()

    def counted(self, name: str, **labels: str) -> float:
        """One of the engine's counters of copies."""
        registry = self.scheduler._proserve.metrics.registry
        return float(registry.get_sample_value(f"proserve_engine_kv_{name}", labels))

    def copy_s(self, direction: str) -> float:
        """Time that copies took so far."""
        parts = ("copy_hidden_seconds_total", "copy_exposed_seconds_total")
        return sum(self.counted(part, direction=direction) for part in parts)

    @contextmanager
    def copying_ahead(self, blocks: int) -> Iterator[None]:
        """The next step also begins to copy so many uncopied blocks of running requests to the host."""
        connector = self.scheduler.connector
        build = connector.build_connector_meta

        def build_with_copies(output: Any) -> Any:
            metadata = build(output)
            metadata.copies = msgspec.structs.replace(
                metadata.copies, offloads=(*metadata.copies.offloads, *self._offloads(blocks))
            )
            return metadata

        connector.build_connector_meta = build_with_copies
        yield
        connector.build_connector_meta = build

    def _offloads(self, blocks: int) -> Iterator[Any]:
        manager, copies = self.scheduler.kv_cache_manager, self.kv.copies
        for request in self.scheduler.running:
            holding = copies.holding(request.request_id)
            copies.complete(request.request_id, request.num_computed_tokens // self.scheduler.block_size)
            if blocks and holding.uncopied and holding.offload is None:
                device = manager.get_block_ids(request.request_id)[0]
                count = min(blocks, holding.uncopied)
                job = copies.offload(request.request_id, device, blocks=count, pin=True)
                if job is not None:
                    blocks -= count
                    yield job
