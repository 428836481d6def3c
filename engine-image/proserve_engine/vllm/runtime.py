"""What surrounds the adapter in the engine process: step times, metrics, snapshots, the capacity server."""

import logging
import time
from pathlib import Path
from typing import Any

from proserve_core.blocks import TRANSFERS
from proserve_core.capacity import MAX_ROWS, CapacitySnapshot
from proserve_core.capacity_rows import class_totals, request_row
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import load_calibration
from proserve_core.latency.online import OnlineLatency
from proserve_engine.access import EngineAccess, keys_from
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.capacity_server import CapacityApp, CapacityServer
from proserve_engine.kv.counters import CopyCounters
from proserve_engine.length_file import LengthFile
from proserve_engine.metrics import EngineMetrics
from proserve_engine.tls import serving_tls
from proserve_engine.vllm.adapter import Adapter
from proserve_engine.vllm.kv_scheduling import KvScheduling
from proserve_engine.vllm.publisher import Publisher
from proserve_engine.vllm.settings import EngineSettings
from proserve_engine.vllm.step_log import StepLog
from proserve_engine.vllm.steps import StepClock, work_of

DEFAULT_CALIBRATION = "h100-llama-3.1-8b"
"""Where the online fit starts when nobody says what the engine runs on."""

_logger = logging.getLogger("vllm.proserve")


class EngineRuntime:
    """Lives as long as the scheduler. All methods but `stop` are called from the engine's thread."""

    def __init__(self, scheduler: Any, settings: EngineSettings) -> None:
        self.metrics = EngineMetrics(settings.policy)
        self.board = CapacityBoard()
        self.adapter = Adapter(scheduler, settings, self.metrics)
        self._scheduler = scheduler
        self._settings = settings
        self._steps = StepClock()
        self._lengths = self._length_file(settings.lengths_file) if settings.lengths_file else None
        self._log = StepLog(Path(settings.step_log)) if settings.step_log else None
        self._publisher = Publisher(self.board, self.metrics)
        calibration = load_calibration(settings.calibration or DEFAULT_CALIBRATION)
        self._latency = OnlineLatency(calibration.latency)
        self._gpu = calibration.gpu
        self._began_s = 0.0
        self._schedule_start_s = 0.0
        self._publishing = False
        self._kv: KvScheduling | None = None
        self._server: CapacityServer | None = None
        if settings.capacity_port is not None:
            self._server = self._serve(settings.capacity_host, settings.capacity_port)
        self._publish_if_idle()

    @property
    def latency(self) -> LatencyModel:
        """How long steps take, as far as is known."""
        return self._latency.model

    def drive(self, kv: KvScheduling) -> None:
        """The engine has a connector of ours: give it what its plans need."""
        kv.attach(
            self._scheduler,
            adapter=self.adapter,
            counters=CopyCounters(self.metrics.registry),
            latency=self.latency,
            transfer=TRANSFERS[self._gpu],
        )
        self.adapter.keep(kv, kv.resume_model)
        self._kv = kv

    def before_schedule(self) -> None:
        """Plan the step. A snapshot shows the state before the step, so residents are brought up to date for it."""
        self._began_s = time.perf_counter()
        if self._log is not None:
            self._log.planning()
        planned = self.adapter.prepare(self._latency.model)
        self._publishing = self._publisher.due(idle=False)
        if self._publishing and not planned:
            self.adapter.refresh()
        self._schedule_start_s = time.perf_counter()
        if planned:
            self.metrics.planned_steps.inc()
            self.metrics.plan_seconds.observe(self._schedule_start_s - self._began_s)
        else:
            self.metrics.plain_steps.inc()

    def after_schedule(self, output: Any) -> None:
        """Start the clock of the step and publish."""
        now_s = time.perf_counter()
        self.metrics.schedule_seconds.observe(now_s - self._schedule_start_s)
        scheduled: dict[str, int] = output.num_scheduled_tokens
        self.adapter.scheduled(output.total_num_scheduled_tokens)
        if not scheduled:
            self._idle()
            self._publish_if_idle()
            return
        scheduler = self._scheduler
        work = work_of(scheduled, scheduler.requests, 1 + scheduler.num_spec_tokens)
        if self._publishing:
            for request_id in scheduled:
                self.adapter.tracker.admitted(request_id)
        self._steps.scheduled(output, work, predicted_s=self._latency.model.step_s(work), began_s=self._began_s)
        if self._log is not None:
            self._log.scheduled(output, work)
        if self._publishing:
            self._publisher.publish(self._snapshot, idle=False)

    def step_done(self, output: Any, *, waited: bool = False, copies_s: float = 0.0) -> None:
        """The step's result is in; `waited`: for copies, for so long, so that its time is not that of its work."""
        step = self._steps.result(output, time.perf_counter())
        if self._log is not None:
            self._log.result(output, step, copies_s=copies_s)
        if step is not None:
            self.metrics.step_seconds.observe(step.duration_s)
            if not waited:
                self._latency.observe(step.work, step.duration_s)
            if self._latency.mape is not None:
                self.metrics.latency_error.set(self._latency.mape)

    def after_update(self) -> None:
        """The step's tokens are delivered and finished requests are gone."""
        idle = not self._scheduler.requests
        if idle:
            self._idle()
        self._publish_if_idle()
        if self._lengths is not None:
            self._lengths.save_if_due(now_s=time.monotonic(), idle=idle)

    def stop(self) -> None:
        """Stop serving capacity, and keep what should be kept."""
        if self._lengths is not None:
            self._lengths.save()
        if self._server is not None:
            self._server.stop()
        if self._log is not None:
            self._log.close()

    def _idle(self) -> None:
        """The next step does not follow the last one."""
        self._steps.idle()
        if self._log is not None:
            self._log.idle()

    def _publish_if_idle(self) -> None:
        if not self._scheduler.requests and self._publisher.due(idle=True):
            self._publisher.publish(self._snapshot, idle=True)

    def _snapshot(self) -> CapacitySnapshot:
        adapter, host = self.adapter, None if self._kv is None else self._kv.copies.ledger
        limits, states = adapter.limits, list(adapter.tracker.states.values())
        now_s = time.monotonic()
        residents = [state for state in states if state.resident]
        waiting = [state for state in states if not state.resident]
        running_since_s = self._steps.running_since_s
        return CapacitySnapshot(
            seq=0,
            engine_id="",
            model=str(self._scheduler.vllm_config.model_config.served_model_name),
            policy=self._settings.policy,
            age_s=0.0,
            block_size=limits.block_size,
            blocks=limits.blocks,
            free_blocks=adapter.free_blocks,
            host_blocks=0 if host is None else host.host_blocks,
            free_host_blocks=0 if host is None else host.free_host,
            running=len(self._scheduler.running),
            waiting=len(states) - len(residents),
            max_sequences=limits.max_sequences,
            max_step_tokens=limits.max_step_tokens,
            step_age_s=None if running_since_s is None else time.perf_counter() - running_since_s,
            step_predicted_s=self._steps.running_predicted_s,
            latency=self._latency.model,
            latency_error=self._latency.mape,
            preemptions=adapter.preemptions,
            classes=class_totals(states),
            rows=tuple(request_row(state, now_s) for state in (residents + waiting)[:MAX_ROWS]),
            rows_truncated=len(states) > MAX_ROWS,
        )

    def _length_file(self, path: str) -> LengthFile:
        rank = self._scheduler.parallel_config.data_parallel_index
        return LengthFile(Path(f"{path}.{rank}" if rank else path), self.adapter.policy, now_s=time.monotonic())

    def _serve(self, host: str, port: int) -> CapacityServer:
        if port:
            # Each data-parallel rank is an engine of its own.
            port += self._scheduler.parallel_config.data_parallel_index
        server = CapacityServer(
            EngineAccess(
                CapacityApp(
                    self.board,
                    self.adapter.decisions,
                    self.metrics.render,
                    unplanned="vLLM plans by itself under policy fcfs and while no request in the engine has class "
                    "facts",
                ),
                keys_from(self._settings.key_file),
            ),
            host=host,
            port=port,
            tls=serving_tls(self._settings.tls),
        )
        server.start()
        scheme = "http" if self._settings.tls is None else "https"
        _logger.info("capacity at %s://%s:%d/capacity, policy %s", scheme, host, server.port, self._settings.policy)
        return server
