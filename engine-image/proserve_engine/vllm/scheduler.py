"""ProServe's scheduler classes for `vllm serve --scheduler-cls`.

A mixin in front of vLLM's two schedulers: plan, then `super().schedule()`. `ProServeAsyncScheduler` is the default, it
also runs where asynchronous scheduling is off; `ProServeScheduler` is for engines that need vLLM's synchronous class.
"""

import os
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from proserve_engine.vllm.kv_connector import ProServeConnector
from proserve_engine.vllm.runtime import EngineRuntime
from proserve_engine.vllm.seams import (
    check_classes,
    check_kv_offload,
    check_scheduler,
    check_version,
    installed_version,
)
from proserve_engine.vllm.settings import EngineSettings

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput

_Scheduler: Any = object
"""Stands for the vLLM scheduler behind the mixin."""


class ProServeMixin(_Scheduler):
    """Puts a batching policy in front of vLLM's `schedule()`, measures, and publishes capacity."""

    announces_preemptions = True
    """`ProServeConnector` is told of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        version = installed_version()
        check_version(version, os.environ)
        check_classes(Scheduler, Request, version)
        super().__init__(*args, **kwargs)
        check_scheduler(self, version)
        self._proserve = EngineRuntime(self, EngineSettings.from_environment(os.environ))
        self._kv = self.connector.scheduling if isinstance(self.connector, ProServeConnector) else None
        if self._kv is not None:
            check_kv_offload(self, version)
            self._proserve.drive(self._kv)

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        self._proserve.adapter.arrived(request)

    def schedule(self, throttle_prefills: bool = False) -> "SchedulerOutput":
        runtime = self._proserve
        runtime.before_schedule()
        if self._kv is not None:
            self._kv.before_step(runtime.adapter.plan, runtime.latency)
        output = super().schedule(throttle_prefills)
        runtime.after_schedule(output)
        return output

    def update_from_output(self, scheduler_output: "SchedulerOutput", model_runner_output: "ModelRunnerOutput") -> Any:
        copies = scheduler_output.kv_connector_metadata.copies if self._kv is not None else None
        connector_output = None if self._kv is None else model_runner_output.kv_connector_output
        metadata = connector_output.kv_connector_worker_meta if connector_output is not None else None
        self._proserve.step_done(
            scheduler_output,
            waited=copies is not None and copies.waited_for,
            copies_s=0.0 if metadata is None else metadata.report.waited_s + metadata.report.flushed_s,
        )
        if self._kv is not None and metadata is not None:
            self._kv.take_in(metadata.report)
        result = super().update_from_output(scheduler_output, model_runner_output)
        self._proserve.after_update()
        return result

    def shutdown(self) -> None:
        self._proserve.stop()
        super().shutdown()

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._proserve.adapter.ended(request)
        return super()._free_request(request, *args, **kwargs)

    def _preempt_request(self, request: Request, timestamp: float, drop_stale_output: bool = False) -> None:
        if self._kv is not None:
            self._kv.preempting(request)
        super()._preempt_request(request, timestamp, drop_stale_output=drop_stale_output)
        self._proserve.adapter.preempted(request)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        if self._kv is None:
            return bool(super().reset_prefix_cache(reset_running_requests, reset_connector))
        # Copies are a request's own KV kept for it: they are as stale as what is on the device.
        self._kv.discard()
        try:
            return bool(super().reset_prefix_cache(reset_running_requests, reset_connector))
        finally:
            self._kv.keep()

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        tokens: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        cap = self._proserve.adapter.cap(request, num_computed_tokens)
        if cap is None or tokens <= cap:
            return tokens
        if cap == 0:
            return 0
        if self.need_mamba_block_aligned_split or request.has_encoder_inputs:
            # The chunk was cut to a boundary that the model needs: it runs whole or not at all.
            return tokens
        return int(super()._reserve_prefill_lookahead(request, num_computed_tokens, cap))


class ProServeScheduler(ProServeMixin, Scheduler):
    """ProServe on vLLM's synchronous scheduler."""


class ProServeAsyncScheduler(ProServeMixin, AsyncScheduler):
    """ProServe on vLLM's asynchronous scheduler, vLLM's default on GPUs."""
