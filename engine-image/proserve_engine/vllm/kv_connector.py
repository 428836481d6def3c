"""ProServe's KV connector for vLLM: two halves, one beside the scheduler and one in each worker.

Written on vLLM's connector interface, not on its offloading connector. That one is a cache: it knows blocks by their
hashes and evicts the least recently used, while ProServe's plans are about requests, what their blocks are worth and
how far a row of them reaches. It loads between steps and not within one, does not let copies fail, has no worker for
CPUs, and its scheduler side is rewritten with every release (700 lines in the last three).

Loads are synchronous in vLLM's terms: a request whose blocks come back is computed in the same step, and the forward
pass waits for them, before it starts or layer by layer.
"""

from functools import cached_property
from typing import Any

from vllm.config import CUDAGraphMode
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec

from proserve_core.blocks.settings import KvOffloadError, kv_offload
from proserve_engine.kv.host_memory import check_host_memory
from proserve_engine.kv.messages import CopyReport, Report, StepCopies
from proserve_engine.vllm.kv_scheduling import KvScheduling
from proserve_engine.vllm.kv_worker import make_worker


class StepMetadata(KVConnectorMetadata):
    """Carries a step's copies to the workers."""

    def __init__(self, copies: StepCopies) -> None:
        self.copies = copies


class WorkerMetadata(KVConnectorWorkerMetadata):
    """Carries a worker's report to the scheduler, together with the output of the step that it is about.

    On a GPU it is made when the step has been launched, not computed. vLLM sends both on when the output is there, from
    a thread of its own if steps overlap; to be sent, this is pickled, and only then the report is asked for. So nobody
    waits for copies while a step is put together, and no output is looked at before its copies are known.
    """

    def __init__(self, ask: Report) -> None:
        self._ask = ask

    @cached_property
    def report(self) -> CopyReport:
        return self._ask()

    def aggregate(self, other: "WorkerMetadata") -> "WorkerMetadata":
        both = self.report + other.report
        return WorkerMetadata(lambda: both)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.report,)


def _received(report: CopyReport) -> WorkerMetadata:
    return WorkerMetadata(lambda: report)


class ProServeConnector(KVConnectorBase_V1, SupportsHMA):
    """What vLLM makes of `--kv-transfer-config`, once for the scheduler and once per worker."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.settings = kv_offload(vllm_config.kv_transfer_config.kv_connector_extra_config)
        _check(vllm_config, kv_cache_config)
        check_host_memory(self.settings)
        block_bytes = block_bytes_of(vllm_config, kv_cache_config)
        self._host_blocks = self.settings.host_blocks(block_bytes=block_bytes)
        self.scheduling: KvScheduling | None = None
        """The scheduler's half; None in a worker."""
        self.worker: Any = None
        """The worker's half, as soon as it knows its KV caches."""
        if role == KVConnectorRole.SCHEDULER:
            self.scheduling = KvScheduling(
                settings=self.settings,
                config=vllm_config,
                kv_cache=kv_cache_config,
                host_blocks=self._host_blocks,
                block_bytes=block_bytes,
            )

    # vLLM would drop the output of a preempted request for a connector that hands blocks on. This one only keeps them.
    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # Worker

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self.worker = make_worker(kv_caches, self._kv_cache_config.num_blocks, self._host_blocks)

    def handle_preemptions(self, kv_connector_metadata: StepMetadata) -> None:
        self.worker.before_step(kv_connector_metadata.copies)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ARG002
        # The layers of a draft model run behind the others.
        layerwise = layers_wait(forward_context) and self._vllm_config.speculative_config is None
        self.worker.start_restores(self._get_connector_metadata().copies, layerwise=layerwise)

    def wait_for_layer_load(self, layer_name: str) -> None:
        self.worker.wait_for_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Blocks are copied when they are complete, not when a layer has written to them."""

    def wait_for_save(self) -> None:
        self.worker.after_step()

    def build_connector_worker_meta(self) -> WorkerMetadata | None:
        # With speculative decoding vLLM asks for this before the step is over for it.
        self.worker.after_step()
        report = self.worker.report()
        return None if report is None else WorkerMetadata(report)

    def shutdown(self) -> None:
        if self.worker is not None:
            self.worker.close()

    # Scheduler

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        if self.scheduling is not None:
            self.scheduling.pool.bind(gpu_block_pool)

    def on_new_request(self, request: Any) -> None:
        self._here.arrived(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return self._here.restorable_tokens(request, num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._here.admitted(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        return StepMetadata(self._here.step(scheduler_output))

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:  # noqa: ARG002
        self._here.ended(request)
        return False, None

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return self.request_finished(request, block_ids)

    def has_pending_block_frees(self) -> bool:
        return self._here.copies.draining

    def has_pending_push_work(self) -> bool:
        return self._here.copies.under_way > 0

    def reset_cache(self) -> bool:
        self._here.copies.reset()
        return True

    @property
    def _here(self) -> KvScheduling:
        assert self.scheduling is not None, "called in a worker"
        return self.scheduling


def layers_wait(forward_context: Any) -> bool:
    """Whether vLLM is going to call `wait_for_layer_load` before each layer of this forward pass.

    Within one CUDA graph no Python runs. A step that is one is known by its mode, or, under vLLM's second model runner,
    by the empty context that connectors see. In eager mode and between the pieces of a cut graph attention is called
    from Python. Should that ever be wrong, the worker finds out behind the pass.
    """
    return (
        forward_context.attn_metadata is not None and forward_context.cudagraph_runtime_mode is not CUDAGraphMode.FULL
    )


def block_bytes_of(config: Any, kv_cache: Any) -> int:
    """Bytes of a KV block on all workers together."""
    group = kv_cache.kv_cache_groups[0]
    return int(group.kv_cache_spec.page_size_bytes * len(group.layer_names) * config.parallel_config.world_size)


def _check(config: Any, kv_cache: Any) -> None:
    """Refuse engines whose blocks are not what copies take them for.

    Raises:
        KvOffloadError: names all that stands in the way.
    """
    parallel = config.parallel_config
    reasons = []
    scheduler = config.scheduler_config.get_scheduler_cls()
    if not getattr(scheduler, "announces_preemptions", False):
        reasons.append(
            f"scheduler {scheduler.__name__} does not say whom it preempts: serve with `proserve engine serve`"
        )
    if len(kv_cache.kv_cache_groups) != 1 or not isinstance(
        kv_cache.kv_cache_groups[0].kv_cache_spec, FullAttentionSpec
    ):
        reasons.append("the model has layers that do not attend to everything before")
    if kv_cache.needs_kv_cache_zeroing:
        reasons.append("vLLM clears blocks before victims' could be copied")
    if parallel.pipeline_parallel_size > 1 or getattr(parallel, "decode_context_parallel_size", 1) > 1:
        reasons.append("its layers or blocks are spread over workers (pipeline or context parallel)")
    if reasons:
        raise KvOffloadError(f"kvOffload does not work here: {'; '.join(reasons)}. Or leave --kv-offload out")
