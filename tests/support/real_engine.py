"""A vLLM engine in this process with the generated model, whose scheduler can be exchanged between runs.

An engine takes seconds to start, so one serves a whole test session. Exchanging the scheduler object is what makes that
possible; the scheduler that is put in is made by the same class, from the same configuration and environment, as the
one that vLLM makes at start-up. Run by the engine environment's interpreter only.
"""

from collections.abc import Callable, Sequence
from typing import Any

from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer import kv_transfer_state

from engine_harness import HIGH, LOW
from proserve_core.blocks.settings import KvOffload
from proserve_core.facts import encode_facts
from proserve_engine.serve import SYNC_CLASS, UNIPROC_EXECUTOR, kv_transfer_config
from proserve_engine.vllm.scheduler import ProServeMixin

REAL_BLOCK = 32
HOST_BLOCKS = 256
BLOCK_BYTES = 2 * 2 * 64 * 4 * REAL_BLOCK
"""Two layers, keys and values of one head of 64, in float32."""


def kv_settings(blocks: int = HOST_BLOCKS, **settings: Any) -> KvOffload:
    """Settings with room for `blocks` blocks on the host."""
    return KvOffload(host_memory=str(blocks * BLOCK_BYTES), **settings)


class RealEngine:
    """The engine; in float32, so that no near tie between two tokens is decided by the size of a batch."""

    def __init__(self, model: str) -> None:
        self._llm = LLM(
            model,
            dtype="float32",
            enforce_eager=True,
            block_size=REAL_BLOCK,
            num_gpu_blocks_override=512,
            max_model_len=2048,
            max_num_seqs=8,
            max_num_batched_tokens=256,
            distributed_executor_backend=UNIPROC_EXECUTOR,
            disable_log_stats=False,
            scheduler_cls=SYNC_CLASS,
            kv_transfer_config=KVTransferConfig(**kv_transfer_config(kv_settings())),
        )
        # vLLM has one connector per process, and calls it in each step if it is there.
        self.connector: Any = kv_transfer_state.get_kv_transfer_group()
        self._transfer = self._llm.llm_engine.vllm_config.kv_transfer_config
        self.core = self._llm.llm_engine.engine_core.engine_core

    @property
    def copier(self) -> Any:
        """What copies KV blocks."""
        return self.connector.worker.copier

    def finish_copies(self) -> None:
        """Steps until none is under way: what a worker has to say of copies is for the scheduler that knows them."""
        scheduler = self.core.scheduler
        while isinstance(scheduler, ProServeMixin) and scheduler._kv is not None and scheduler._kv.copies.under_way:
            self._llm.llm_engine.step()

    def use(
        self,
        scheduler_class: type,
        *,
        blocks: int = 512,
        policy: Any = None,
        prefix_caching: bool = True,
        kv: KvOffload | None = None,
    ) -> Any:
        """Put another scheduler in charge, with an empty cache of `blocks` blocks and `kv` for preempted requests."""
        old = self.core.scheduler
        assert not old.requests
        self.finish_copies()
        config = old.vllm_config
        config.scheduler_config.scheduler_cls = scheduler_class
        config.kv_transfer_config = None
        kv_transfer_state._KV_CONNECTOR_AGENT = None
        if kv is not None:
            self._transfer.kv_connector_extra_config = kv.to_mapping()
            config.kv_transfer_config = self._transfer
            kv_transfer_state._KV_CONNECTOR_AGENT = self.connector
        # vLLM's second model runner, for GPUs, keeps a connector of its own.
        runner = self.core.model_executor.driver_worker.worker.model_runner
        if (connector := getattr(runner, "kv_connector", None)) is not None:
            connector.set_disabled(kv is None)
        old.kv_cache_config.num_blocks = blocks
        old.cache_config.num_gpu_blocks = blocks
        old.cache_config.enable_prefix_caching = prefix_caching
        self.core.scheduler = scheduler_class(
            vllm_config=old.vllm_config,
            kv_cache_config=old.kv_cache_config,
            structured_output_manager=old.structured_output_manager,
            block_size=old.block_size,
            hash_block_size=old.hash_block_size,
            log_stats=True,
        )
        # What the worker has to forget is told by the scheduler that knew it.
        self.core.scheduler.finished_req_ids |= old.finished_req_ids
        if policy is not None:
            self.core.scheduler._proserve.adapter._policy = policy
        return self.core.scheduler

    def generate(self, requests: Sequence[tuple[list[int], int]], *, facts: bool) -> list[list[int]]:
        """Output tokens of (prompt, output tokens) each, sent all at once; every second one is of the high class."""
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
        results = self._llm.generate(prompts, _parameters(requests, facts=facts), use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    def step_through(
        self, requests: Sequence[tuple[list[int], int]], before_step: Callable[[list[int]], Sequence[int]]
    ) -> list[list[int] | None]:
        """The same step by step; None for requests that were aborted.

        Args:
            before_step: called with the numbers of the requests that are not done; says whom to abort.
        """
        engine = self._llm.llm_engine
        outputs: list[list[int] | None] = [[] for _ in requests]
        left = list(range(len(requests)))
        for number, parameters in enumerate(_parameters(requests, facts=True)):
            engine.add_request(str(number), {"prompt_token_ids": requests[number][0]}, parameters)
        while left:
            for number in before_step(left):
                engine.abort_request([str(number)])
                outputs[number] = None
                left.remove(number)
            for result in engine.step():
                number = int(result.request_id)
                outputs[number] = list(result.outputs[0].token_ids)
                if result.finished:
                    left.remove(number)
        return outputs


def _parameters(requests: Sequence[tuple[list[int], int]], *, facts: bool) -> list[Any]:
    return [
        SamplingParams(
            max_tokens=tokens,
            temperature=0,
            ignore_eos=True,
            extra_args=dict(encode_facts(HIGH if number % 2 else LOW, 0.0)) if facts else None,
        )
        for number, (_, tokens) in enumerate(requests)
    ]
