"""Between vLLM's scheduler and a batching policy: plan on a snapshot, shape the scheduler, let vLLM act.

vLLM's own `schedule()` does all the work. Before it runs, the adapter brings the scheduler into the shape that makes it
follow the plan:

- order: planned residents first and in the plan's order, the least important last, because vLLM takes the last one when
  it runs out of blocks; planned waiting requests at the head of the queue;
- chunk caps: each planned request gets the plan's tokens, everybody else 0. A resident with 0 is passed over and keeps
  its blocks, a waiting request with 0 ends admission;
- preemption: the plan's victims lose their blocks before the step.

Class facts switch planning on: while no request in the engine carries any, vLLM schedules alone. So it does under
policy `fcfs`, which is by definition what vLLM does. A plan of which vLLM could run nothing is followed by a step of
vLLM's own, so that a disagreement about resources never stalls the engine.
"""

import logging
import time
from collections.abc import Callable, Container
from typing import Any

from proserve_core.batching import BatchPlan, EngineLimits, EngineState
from proserve_core.batching.explain import DecisionLog
from proserve_core.batching.fill import blocks_for
from proserve_core.batching.protocol import BatchingPolicy, ObservesProgress
from proserve_core.batching.registry import make_policy
from proserve_core.blocks import ResumeModel
from proserve_core.facts import FactsError
from proserve_core.latency import LatencyModel
from proserve_engine.metrics import EngineMetrics
from proserve_engine.vllm.settings import EngineSettings
from proserve_engine.vllm.tracking import HostBlocks, Tracker, needs_vllm
from proserve_engine.vllm.waiting_queue import PlannedQueue

_logger = logging.getLogger("vllm.proserve")

_COMPLETE = frozenset({"FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED", "FINISHED_REPETITION"})
"""Statuses of vLLM's requests whose output is as long as it was going to be."""


class Adapter:
    """Applies one policy to one scheduler."""

    def __init__(self, scheduler: Any, settings: EngineSettings, metrics: EngineMetrics) -> None:
        self.tracker = Tracker(
            block_size=scheduler.block_size, cached_prefix=self.device_prefix, bad_facts=self._report_bad_facts
        )
        self.plan: BatchPlan | None = None
        """Plan of the present step; None when vLLM schedules alone."""
        self.decisions = DecisionLog()
        self._resume: Callable[[], ResumeModel] | None = None
        self._scheduler = scheduler
        scheduler.waiting = PlannedQueue(scheduler.waiting)
        self._metrics = metrics
        self._policy = make_policy(settings.policy, settings.policy_options)
        self._never_plans = settings.policy == "fcfs"
        # A hybrid model takes one block per group for the same tokens: blocks are counted in such sets.
        self._groups = max(1, len(scheduler.kv_cache_config.kv_cache_groups))
        self._block_pool = scheduler.kv_cache_manager.block_pool
        self._watermark_blocks = scheduler.kv_cache_manager.watermark_blocks
        self._caps: dict[str, int] | None = None
        self._spare_tokens = 0
        """Of the present step, beyond the plan's."""
        self._added: dict[str, int] = {}
        """Who gets how many of them."""
        self._reserves_whole_sequence: bool = scheduler.scheduler_reserve_full_isl
        self.preemptions = 0
        """Since the engine started, whoever decided."""
        self._preempting = False
        self._refused = False
        self._limits = self._limits_for(scheduler.max_num_running_reqs)

    @property
    def policy(self) -> BatchingPolicy:
        return self._policy

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def free_blocks(self) -> int:
        """Blocks that can be given to any request, in sets of one per group."""
        free: int = self._block_pool.get_num_free_blocks() - self._watermark_blocks
        return max(0, free) // self._groups

    def keep(self, host: HostBlocks, resume: Callable[[], ResumeModel]) -> None:
        """Blocks are kept on a host, and come back as `resume` says."""
        self.tracker.host = host
        self._resume = resume

    def refresh(self) -> None:
        """Bring the tracked requests up to date with vLLM."""
        scheduler = self._scheduler
        self.tracker.refresh(scheduler.running, set_aside=self._set_aside(), next_step=scheduler.current_step + 1)
        slots = getattr(scheduler, "max_num_active_reqs", scheduler.max_num_running_reqs)
        slots -= scheduler.num_waiting_for_streaming_input + self.tracker.held_slots
        if slots != self._limits.max_sequences:
            self._limits = self._limits_for(slots)

    def prepare(self, latency: LatencyModel) -> bool:
        """Plan the coming step and shape the scheduler for it; False when vLLM schedules alone."""
        scheduler = self._scheduler
        self.plan = self._caps = None
        scheduler.scheduler_reserve_full_isl = self._reserves_whole_sequence
        refused, self._refused = self._refused, False
        if self._never_plans or refused or not self.tracker.with_facts or scheduler.pause_state.name != "UNPAUSED":
            return False
        self.refresh()
        if not self.tracker.table:
            return False
        state = EngineState(
            now_s=time.monotonic(),
            requests=self.tracker.table,
            limits=self._limits,
            free_blocks=self.free_blocks,
            latency=latency,
            resume=None if self._resume is None else self._resume(),
        )
        plan = self._policy.plan(state)
        self.decisions.note(self._policy, state, plan)
        self._apply(plan)
        return True

    def scheduled(self, total_tokens: int) -> None:
        """Take notice of what vLLM made of the plan."""
        if self.plan is not None and self.plan.entries and total_tokens == 0:
            self._refused = True
            self._metrics.refused_plans.inc()

    def cap(self, request: Any, computed_tokens: int) -> int | None:
        """Most tokens that the request may get in the present step; None: as many as vLLM wants.

        Args:
            computed_tokens: what vLLM starts from.
        """
        caps, tracker = self._caps, self.tracker
        if caps is None:
            return None
        request_id = request.request_id
        cap = caps.get(request_id)
        if cap is None:
            return 0 if request_id in tracker.states and request_id not in tracker.hidden else None
        state = tracker.states[request_id]
        if state.resident:
            return cap
        # The prefix cache may give back more than the planner knew: the blocks reckoned with reach to the planned end.
        # The host may give back less, as its budget decides in this step: the rest is computed in the same one, as far
        # as the step has tokens that are not planned for others.
        missing = min(state.computed_tokens - computed_tokens, state.host_tokens)
        if missing > 0:
            added = self._added.setdefault(request_id, min(missing, self._spare_tokens - sum(self._added.values())))
            missing = min(missing, added)
        return max(1, cap + missing)

    def arrived(self, request: Any) -> None:
        """vLLM has queued the request."""
        self.tracker.add(request)
        self.decisions.arrived(request.request_id)

    def preempted(self, request: Any) -> None:
        """vLLM has taken the request's blocks, on the plan's behalf or on its own."""
        self.tracker.preempted(request)
        request_id = request.request_id
        if self.plan is not None and request_id not in self.plan.preempt and request_id in self.tracker.states:
            self.decisions.lost_blocks(self.tracker.states[request_id], time.monotonic())
        self.preemptions += 1
        (self._metrics.planned_preemptions if self._preempting else self._metrics.forced_preemptions).inc()

    def ended(self, request: Any) -> None:
        """vLLM is done with the request."""
        state = self.tracker.states.get(request.request_id)
        self.tracker.remove(request.request_id)
        self.decisions.ended(request.request_id)
        if state is not None and isinstance(self._policy, ObservesProgress):
            state.emitted_tokens = request.num_output_tokens
            self._policy.ended(state, finished=request.status.name in _COMPLETE)

    def _apply(self, plan: BatchPlan) -> None:
        scheduler, states = self._scheduler, self.tracker.states
        requests = scheduler.requests
        self.plan = plan
        # The plan decides how much of a sequence must fit, not vLLM's admission gate.
        scheduler.scheduler_reserve_full_isl = False
        caps = {entry.id: entry.tokens for entry in plan.entries}
        residents = [requests[request_id] for request_id in caps if states[request_id].resident]
        admitted: list[Any] = []
        if len(residents) < len(caps):
            admitted = [requests[request_id] for request_id in caps if not states[request_id].resident]
        if scheduler.num_spec_tokens:
            # A decode with drafts is one unit: it runs whole or not at all.
            caps |= {i: self._limits.max_step_tokens for i in caps if states[i].is_decode}
        self._spare_tokens = max(0, self._limits.max_step_tokens - sum(entry.tokens for entry in plan.entries))
        self._added = {}
        self._caps = caps
        self._order_running(plan, residents, caps)
        if plan.preempt:
            self._preempt(plan)
        self._order_waiting(admitted)

    def _preempt(self, plan: BatchPlan) -> None:
        scheduler = self._scheduler
        for request_id in plan.preempt:
            self._take_blocks(scheduler.requests[request_id])
        # The planner counts all blocks of a victim, but those of a prefix that it shares with others stay in use. Then
        # paused residents follow, the least important first, or the plan would have preempted in vain.
        needed = self._needed_blocks(plan)
        for request in reversed(scheduler.running.copy()):
            if self.free_blocks >= needed:
                break
            if self.cap(request, request.num_computed_tokens) == 0:
                self._take_blocks(request)

    def _take_blocks(self, request: Any) -> None:
        scheduler = self._scheduler
        can_be_freed = getattr(scheduler, "_request_blocks_can_be_freed", None)
        if can_be_freed is not None and not can_be_freed(request):
            # Its blocks would come back only after a step in flight; until then it just pauses.
            return
        self._preempting = True
        scheduler.running.remove(request)
        scheduler._preempt_request(request, time.monotonic(), drop_stale_output=scheduler.requires_kv_delivery)
        self._preempting = False

    def _needed_blocks(self, plan: BatchPlan) -> int:
        """Free blocks that the plan's entries take."""
        scheduler, states = self._scheduler, self.tracker.states
        needed = 0
        for entry in plan.entries:
            state = states[entry.id]
            held = state.blocks
            if not state.resident:
                cached = scheduler.kv_cache_manager.get_computed_blocks(scheduler.requests[entry.id])[0].blocks[0]
                held = sum(block.ref_cnt > 0 for block in cached)
            needed += max(0, blocks_for(state.computed_tokens + entry.tokens, scheduler.block_size) - held)
        return needed

    def _order_running(self, plan: BatchPlan, planned: list[Any], caps: Container[str]) -> None:
        """`planned` first, in the plan's order; then those that pause, the least important last."""
        running, tracker = self._scheduler.running, self.tracker
        if len(planned) == len(running):
            running[:] = planned
            return
        states, hidden = tracker.states, tracker.hidden
        # Whom the planner does not see vLLM must not victimise: most of them are about to end.
        unseen: list[Any] = []
        paused: list[Any] = []
        for request in running:
            request_id = request.request_id
            if request_id not in caps:
                (paused if request_id in states and request_id not in hidden else unseen).append(request)
        if len(paused) > 1 and plan.order:
            rank = {request_id: position for position, request_id in enumerate(plan.order)}
            last = len(rank)
            paused.sort(key=lambda request: rank.get(request.request_id, last))
        running[:] = unseen + planned + paused

    def _order_waiting(self, admitted: list[Any]) -> None:
        """`admitted` first, in the plan's order; before them whom vLLM has to look at."""
        scheduler, tracker = self._scheduler, self.tracker
        waiting, aside = scheduler.waiting, self._set_aside()
        if aside:
            # vLLM tries these before all others, whatever they are worth. Some of them hold no blocks and can run like
            # anybody: up to 0.30 all that it passed over once, since then those whose transfer failed.
            back = [r for r in aside if r.request_id in tracker.states and r.request_id not in tracker.hidden]
            aside.remove_requests(back)
            for request in back:
                waiting.add_request(request)
        # Most of the hidden are about to end and run: only for one that waits is the queue looked through.
        hidden_waits = any(not tracker.states[request_id].resident for request_id in tracker.hidden)
        if hidden_waits or len(tracker.states) < len(scheduler.requests):
            waiting.bring_forward(
                [r for r in waiting if r.request_id not in tracker.states or needs_vllm(r)] + admitted
            )
        else:
            waiting.bring_forward(admitted)

    def _set_aside(self) -> Any:
        """vLLM's second waiting queue."""
        scheduler = self._scheduler
        queue = getattr(scheduler, "kv_holding_waiting", None)
        return scheduler.skipped_waiting if queue is None else queue

    def device_prefix(self, request: Any) -> int:
        """Tokens of a waiting request that the prefix cache gives back."""
        return int(self._scheduler.kv_cache_manager.get_computed_blocks(request)[1])

    def _report_bad_facts(self, request_id: str, error: FactsError) -> None:
        self._metrics.bad_facts.inc()
        _logger.warning("request %s runs in the default class: %s", request_id, error)

    def _limits_for(self, slots: int) -> EngineLimits:
        scheduler = self._scheduler
        return EngineLimits(
            block_size=scheduler.block_size,
            # One block is vLLM's null block.
            blocks=(self._block_pool.num_gpu_blocks - 1) // self._groups,
            max_sequences=max(0, slots),
            max_step_tokens=scheduler.max_num_scheduled_tokens,
        )
