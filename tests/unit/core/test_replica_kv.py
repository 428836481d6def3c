"""A replica with host memory: what a step takes, what comes back, and what policies are told."""

import pytest

from engine_builders import MILLISECOND_PER_TOKEN, engine_limits, service_terms
from proserve_core.batching import BatchPlan, EngineState, PlanEntry
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.blocks import KvLayout, LinkModel, Reload, TransferModel
from proserve_core.blocks.ahead import CALL_S
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_core.kv_host import KvHost
from proserve_core.replica import Replica

LAYOUT = KvLayout(layers=10, kv_heads=1, head_dim=64)
BLOCK_S = 0.002
LINK = LinkModel(call_s=0.0, byte_s=BLOCK_S / LAYOUT.block_bytes(16))


class Scripted:
    """Returns the given plans one after the other, and remembers what it saw."""

    def __init__(self, *plans: BatchPlan) -> None:
        self._plans = iter(plans)
        self.seen: list[dict[str, tuple[int, int]]] = []
        self.residents: list[dict[str, tuple[int, int]]] = []

    def plan(self, state: EngineState) -> BatchPlan:
        self.residents.append({r.id: (r.copied_blocks, r.flush_blocks) for r in state.requests if r.resident})
        self.seen.append({request.id: (request.computed_tokens, request.host_tokens) for request in state.requests})
        return next(self._plans)


def kv_host(
    *, offload: Offload = Offload.ON_PREEMPT, reload: Reload = Reload.BLOCKING,
    budget: CopyBudget = CopyBudget.UNLIMITED, host_blocks: int = 100, copy_blocks: int = 1, by_gain: bool = False,
) -> KvHost:  # fmt: skip
    return KvHost(
        settings=KvOffload(
            host_memory=str(host_blocks * LAYOUT.block_bytes(16)),
            offload=offload, reload=reload, copy_budget=budget, copy_blocks=copy_blocks,
        ),
        transfer=TransferModel(offload=LINK, restore=LINK, both_busy=1.5),
        layout=LAYOUT,
        by_gain=by_gain,
    )  # fmt: skip


def make_replica(policy: BatchingPolicy, host: KvHost, *, blocks: int = 100) -> Replica:
    return Replica(
        policy=policy, policy_name="scripted", limits=engine_limits(blocks=blocks), latency=MILLISECOND_PER_TOKEN,
        kv_host=host,
    )  # fmt: skip


def runs(*entries: tuple[str, int], preempt: tuple[str, ...] = (), order: tuple[str, ...] = ()) -> BatchPlan:
    return BatchPlan(
        entries=tuple(PlanEntry(name, tokens) for name, tokens in entries),
        preempt=preempt,
        order=order or tuple(name for name, _ in entries),
    )


def submit(replica: Replica, name: str, prompt_tokens: int, *, arrival_s: float = 0.0) -> None:
    replica.submit(
        request_id=name, terms=service_terms(), arrival_s=arrival_s, prompt_tokens=prompt_tokens, output_tokens=50
    )


def steps(replica: Replica, count: int) -> list[float]:
    """Durations of the next steps, one after the other."""
    durations, now_s = [], 0.0
    for _ in range(count):
        step = replica.begin_step(now_s)
        assert step is not None
        durations.append(step.duration_s)
        now_s += step.duration_s
        replica.complete_step(now_s)
    return durations


def preempted_and_back(host: KvHost, *, tokens: int, arrival_s: float = 0.0) -> tuple[Scripted, Replica, list[float]]:
    """`a` has 64 prompt tokens and one of output when `b` takes its place for a step; then it comes back."""
    policy = Scripted(runs(("a", 64)), runs(("b", 16), preempt=("a",)), runs(("a", tokens), ("b", 1)))
    replica = make_replica(policy, host)
    submit(replica, "a", 64, arrival_s=arrival_s)
    submit(replica, "b", 16)
    return policy, replica, steps(replica, 3)


def test_a_flush_lengthens_the_step_and_what_comes_back_is_not_computed() -> None:
    policy, replica, durations = preempted_and_back(kv_host(), tokens=1)
    assert policy.seen[2]["a"] == (64, 64)
    # 10 ms and a millisecond per token; four blocks of 2 ms go to the host, and come back in front of two tokens.
    assert durations == pytest.approx([0.074, CALL_S + 0.008 + 0.026, 0.010 + 0.008 + 0.002])
    assert replica.host is not None
    assert (replica.host.totals.restores, replica.host.totals.recomputed_tokens) == (1, 0)


@pytest.mark.parametrize(
    ("offload", "told"), [(Offload.ASYNC, (4, 4)), (Offload.ON_PREEMPT, (4, 4)), (Offload.OFF, (0, 0))]
)
def test_policies_are_told_what_a_flush_will_add_and_what_it_has_to_copy(
    offload: Offload, told: tuple[int, int]
) -> None:
    policy, _, _ = preempted_and_back(kv_host(offload=offload), tokens=1 if told[0] else 65)
    assert policy.residents[1]["a"] == told


def test_who_came_back_is_cheap_to_preempt_again_at_once() -> None:
    policy = Scripted(
        runs(("a", 64)), runs(("b", 16), preempt=("a",)), runs(("a", 1), ("b", 1)), runs(("b", 1), order=("b", "a"))
    )
    replica = make_replica(policy, kv_host())
    submit(replica, "a", 64)
    submit(replica, "b", 16)
    steps(replica, 4)
    assert policy.residents[3]["a"] == (4, 0)


@pytest.mark.parametrize(("by_gain", "came_back"), [(False, True), (True, False)])
def test_by_gain_who_makes_the_step_too_long_for_what_it_brings_waits(by_gain: bool, came_back: bool) -> None:
    # Its blocks take 8 s: beside ten decodes that run anyway, that is no time for one token.
    slow = LinkModel(call_s=0.0, byte_s=2.0 / LAYOUT.block_bytes(16))
    host = kv_host(by_gain=by_gain)
    host = KvHost(
        settings=host.settings, transfer=TransferModel(offload=LINK, restore=slow), layout=LAYOUT, by_gain=by_gain
    )
    others = [f"other{number}" for number in range(10)]
    policy = Scripted(
        runs(("a", 64), *((name, 16) for name in others)),
        runs(*((name, 1) for name in others), preempt=("a",)),
        runs(("a", 1), *((name, 1) for name in others)),
    )
    replica = make_replica(policy, host)
    for name in ("a", *others):
        submit(replica, name, 64 if name == "a" else 16)
    steps(replica, 3)
    assert replica.host is not None
    assert replica.host.totals.restores == came_back


@pytest.mark.parametrize(("arrival_s", "kept"), [(0.0, 64), (-1000.0, 0)])
def test_what_was_not_copied_ahead_is_flushed_for_who_can_still_earn(arrival_s: float, kept: int) -> None:
    policy, _, durations = preempted_and_back(kv_host(offload=Offload.ASYNC), tokens=65 - kept, arrival_s=arrival_s)
    assert policy.seen[2]["a"] == (kept, kept)
    assert durations[1] == pytest.approx(0.026 + (CALL_S + 0.008 if kept else 0.0))


def test_a_pipelined_restore_waits_for_the_longer_of_both_and_one_layer_of_the_other() -> None:
    _, _, durations = preempted_and_back(kv_host(reload=Reload.PIPELINED), tokens=1)
    assert durations[2] == pytest.approx(0.010 + 0.008 + 0.002 / 10)


def test_what_the_budget_leaves_is_computed_in_the_same_step() -> None:
    policy, replica, durations = preempted_and_back(kv_host(budget=CopyBudget.FIXED), tokens=49)
    assert policy.seen[2]["a"] == (16, 16)
    assert durations[2] == pytest.approx(0.010 + BLOCK_S + 0.050)
    assert replica.host is not None
    assert replica.host.totals.recomputed_tokens == 48


def test_the_adaptive_budget_computes_where_copies_take_longer() -> None:
    slow = LinkModel(call_s=0.0, byte_s=0.1 / LAYOUT.block_bytes(16))
    host = kv_host(budget=CopyBudget.ADAPTIVE)
    host = KvHost(settings=host.settings, transfer=TransferModel(offload=slow, restore=slow), layout=LAYOUT)
    _, replica, durations = preempted_and_back(host, tokens=1)
    assert durations[2] == pytest.approx(0.010 + 0.065 + 0.001)
    assert replica.host is not None
    assert replica.host.totals.restored_blocks == 0


def test_without_copies_everything_is_computed_again() -> None:
    policy, _, durations = preempted_and_back(kv_host(offload=Offload.OFF), tokens=65)
    assert policy.seen[2]["a"] == (0, 0)
    assert durations[2] == pytest.approx(0.010 + 0.065 + 0.001)


def test_the_snapshot_tells_of_the_host() -> None:
    _, replica, _ = preempted_and_back(kv_host(host_blocks=10), tokens=1)
    snapshot = replica.snapshot(1.0)
    assert (snapshot.host_blocks, snapshot.free_host_blocks) == (10, 6)


class PreemptsWhoIsCopied:
    """Decodes everybody until a copy of somebody is under way, who loses its blocks then."""

    def plan(self, state: EngineState) -> BatchPlan:
        victims = tuple(request.id for request in state.requests if request.copying_blocks)
        running = [(r.id, 1 if r.resident else r.pending_tokens) for r in state.requests if r.id not in victims]
        return runs(*running, preempt=victims[:1])


def nearly_full(policy: BatchingPolicy) -> Replica:
    """Two prompts of 240 tokens, which take 30 of 32 blocks: as decodes they grow, so somebody is preempted soon."""
    replica = make_replica(policy, kv_host(offload=Offload.ASYNC), blocks=32)
    submit(replica, "a", 240)
    submit(replica, "b", 240)
    return replica


def test_copies_ahead_take_no_time_of_the_step_but_their_call() -> None:
    decodes = [runs(("a", 1), ("b", 1)) for _ in range(15)]
    replica = nearly_full(Scripted(runs(("a", 240), ("b", 240)), *decodes))
    durations = steps(replica, 16)
    assert replica.host is not None
    totals = replica.host.totals
    assert totals.offloaded_blocks > 0
    assert max(durations[1:]) <= 0.012 + 2 * CALL_S
    assert totals.offload_exposed_s == pytest.approx(sum(durations[1:]) - 15 * 0.012)
    assert totals.offload_hidden_s == pytest.approx(BLOCK_S * totals.offloaded_blocks)


def test_blocks_that_a_copy_reads_are_free_when_it_ends() -> None:
    replica = nearly_full(PreemptsWhoIsCopied())
    host, now_s = replica.host, 0.0
    assert host is not None
    while not host.arriving_blocks:
        assert replica.begin_step(now_s) is not None
        now_s += 0.012
        replica.complete_step(now_s)
    # The victim's copy has only just begun.
    copying, free = host.arriving_blocks, replica.free_blocks
    assert replica.begin_step(now_s - 0.011) is not None
    assert (replica.preemptions, host.ledger.draining) == (1, copying)
    assert replica.free_blocks == free + 16 - copying
    replica.complete_step(now_s)
    assert replica.begin_step(now_s + 1.0) is not None
    assert host.ledger.draining == 0
