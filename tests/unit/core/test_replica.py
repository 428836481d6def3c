"""The replica: progress, blocks, aborts, checks on plans, and what it publishes."""

import pytest

from engine_builders import MILLISECOND_PER_TOKEN, Arrival, drive, engine_limits, service_terms
from proserve_core.batching import BatchPlan, EngineLimits, EngineState, PlanEntry
from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.capacity import MAX_ROWS, decode_snapshot, encode_snapshot
from proserve_core.plan_check import PlanError
from proserve_core.replica import Emission, Replica, SubmitError


class Scripted:
    """Returns the given plans one after the other."""

    def __init__(self, *plans: BatchPlan) -> None:
        self._plans = iter(plans)

    def plan(self, state: EngineState) -> BatchPlan:
        return next(self._plans)


def make_replica(policy: BatchingPolicy | None = None, limits: EngineLimits | None = None) -> Replica:
    return Replica(
        policy=policy or Fcfs(),
        policy_name="scripted" if policy else "fcfs",
        limits=limits or engine_limits(),
        latency=MILLISECOND_PER_TOKEN,
    )


def submit(
    replica: Replica, name: str, prompt_tokens: int = 20, output_tokens: int = 3, arrival_s: float = 0.0
) -> None:
    replica.submit(
        request_id=name,
        terms=service_terms(),
        arrival_s=arrival_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )


def runs(*entries: tuple[str, int], preempt: tuple[str, ...] = ()) -> BatchPlan:
    return BatchPlan(entries=tuple(PlanEntry(name, tokens) for name, tokens in entries), preempt=preempt)


def test_an_empty_engine_starts_no_step() -> None:
    assert make_replica().begin_step(0.0) is None


def test_prompt_then_one_token_per_step_until_the_true_length() -> None:
    replica = make_replica()
    submit(replica, "a", prompt_tokens=20, output_tokens=3)
    step = replica.begin_step(5.0)
    assert step is not None
    assert step.duration_s == pytest.approx(0.030)  # 10 ms and 20 tokens of 1 ms
    assert step.plan.predicted_s == pytest.approx(step.duration_s)
    assert replica.complete_step(5.03) == [Emission(id="a", token=1, finished=False)]
    step = replica.begin_step(5.03)
    assert step is not None
    assert step.duration_s == pytest.approx(0.011)
    assert replica.complete_step(5.041) == [Emission(id="a", token=2, finished=False)]
    replica.begin_step(5.041)
    assert replica.complete_step(5.052) == [Emission(id="a", token=3, finished=True)]
    assert (replica.pending, replica.free_blocks, replica.steps) == (0, 1000, 3)


def test_a_prompt_in_chunks_emits_only_at_its_end() -> None:
    replica = make_replica(limits=engine_limits(max_step_tokens=8))
    submit(replica, "a", prompt_tokens=20, output_tokens=1)
    emitted = []
    for now_s in range(3):
        replica.begin_step(float(now_s))
        emitted.append(len(replica.complete_step(now_s + 0.5)))
    assert emitted == [0, 0, 1]


def test_a_preempted_request_is_computed_again_and_repeats_no_token() -> None:
    limits = engine_limits(blocks=4, block_size=16)
    replica = make_replica(limits=limits)
    arrivals = [
        Arrival(id=name, arrival_s=0.0, terms=service_terms(), prompt_tokens=30, output_tokens=20) for name in "ab"
    ]
    outcome = drive(replica, arrivals)
    assert replica.preemptions > 0
    assert {name: len(times) for name, times in outcome.emitted_s.items()} == {"a": 20, "b": 20}
    assert replica.free_blocks == 4


def test_blocks_are_taken_with_the_step_and_returned_with_the_last_token() -> None:
    replica = make_replica(limits=engine_limits(blocks=10, block_size=16))
    submit(replica, "a", prompt_tokens=17, output_tokens=1)
    replica.begin_step(0.0)
    assert replica.snapshot(0.0).free_blocks == 8
    replica.complete_step(0.1)
    assert replica.snapshot(0.1).free_blocks == 10


@pytest.mark.parametrize(("prompt_tokens", "output_tokens"), [(160, 1), (1, 160)])
def test_a_request_that_never_fits_is_refused_with_both_sizes(prompt_tokens: int, output_tokens: int) -> None:
    replica = make_replica(limits=engine_limits(blocks=10, block_size=16))
    with pytest.raises(SubmitError, match="need 11 blocks and the engine has 10"):
        submit(replica, "a", prompt_tokens, output_tokens)
    submit(replica, "b", prompt_tokens=100, output_tokens=60)
    assert replica.pending == 1


def test_a_request_without_tokens_or_with_a_known_id_is_refused() -> None:
    replica = make_replica()
    with pytest.raises(SubmitError, match="prompt_tokens 0"):
        submit(replica, "a", prompt_tokens=0)
    submit(replica, "a")
    with pytest.raises(SubmitError, match="in the engine already"):
        submit(replica, "a")


def test_abort_between_steps_frees_the_blocks_at_once() -> None:
    replica = make_replica()
    submit(replica, "a")
    replica.begin_step(0.0)
    replica.complete_step(0.1)
    assert replica.abort("a")
    assert (replica.pending, replica.free_blocks) == (0, 1000)
    assert not replica.abort("a")


def test_abort_during_its_step_discards_the_token_and_frees_blocks_when_the_step_ends() -> None:
    replica = make_replica()
    submit(replica, "a")
    submit(replica, "b")
    replica.begin_step(0.0)
    assert replica.abort("a")
    assert not replica.abort("a")
    assert replica.free_blocks == 996
    assert [row.id for row in replica.snapshot(0.0).rows] == ["b"]
    assert [emission.id for emission in replica.complete_step(0.1)] == ["b"]
    assert replica.free_blocks == 998


def test_abort_of_a_request_outside_the_running_step_is_immediate() -> None:
    replica = make_replica(limits=engine_limits(max_sequences=1))
    submit(replica, "a")
    submit(replica, "b")
    replica.begin_step(0.0)
    assert replica.abort("b")
    assert replica.pending == 1


def test_a_request_that_arrives_during_a_step_joins_the_next_one() -> None:
    replica = make_replica()
    submit(replica, "a")
    replica.begin_step(0.0)
    submit(replica, "b")
    assert [emission.id for emission in replica.complete_step(0.1)] == ["a"]
    step = replica.begin_step(0.1)
    assert step is not None
    assert [entry.id for entry in step.plan.entries] == ["a", "b"]


def test_steps_do_not_overlap() -> None:
    replica = make_replica()
    with pytest.raises(RuntimeError, match="no step is running"):
        replica.complete_step(0.0)
    submit(replica, "a")
    replica.begin_step(0.0)
    assert replica.busy
    with pytest.raises(RuntimeError, match="a step is running"):
        replica.begin_step(0.0)


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (runs(), "runs nothing although 2 requests"),
        (runs(("ghost", 1)), "'ghost', which is unknown"),
        (runs(("a", 10), ("a", 10)), "'a', which is there twice"),
        (runs(("a", 0)), "'a' 0 tokens, it has 40 to compute"),
        (runs(("a", 41)), "'a' 41 tokens, it has 40 to compute"),
        (runs(("a", 1), preempt=("b",)), "preempts 'b', which is not resident"),
        (runs(("a", 1), ("b", 1)), "2 requests resident .limit max_sequences=1"),
        (runs(("a", 33)), "33 tokens .limit max_step_tokens=32"),
        (runs(("a", 40), ("b", 40)), "2 blocks more than are free .limit blocks=4"),
    ],
)
def test_a_plan_beyond_the_engine_is_an_error_that_names_policy_and_limit(plan: BatchPlan, problem: str) -> None:
    limits = EngineLimits(block_size=16, blocks=4, max_sequences=1, max_step_tokens=32)
    replica = make_replica(Scripted(plan), limits=limits)
    submit(replica, "a", prompt_tokens=40)
    submit(replica, "b", prompt_tokens=40)
    with pytest.raises(PlanError, match=problem) as raised:
        replica.begin_step(0.0)
    assert "policy 'scripted'" in str(raised.value)


def test_a_plan_that_runs_or_preempts_a_request_twice_or_both_is_an_error() -> None:
    for second in (runs(("a", 1), preempt=("a",)), runs(("b", 1), preempt=("a", "a"))):
        replica = make_replica(Scripted(runs(("a", 20)), second))
        submit(replica, "a")
        submit(replica, "b")
        replica.begin_step(0.0)
        replica.complete_step(0.1)
        with pytest.raises(PlanError, match=r"'a', which is preempted|preempts a request twice"):
            replica.begin_step(0.1)


def test_snapshot_tells_stage_work_left_and_deadlines_relative_to_now() -> None:
    replica = make_replica(limits=engine_limits(max_step_tokens=24))
    submit(replica, "a", prompt_tokens=20, arrival_s=1.0)
    submit(replica, "b", prompt_tokens=30, arrival_s=2.0)
    replica.begin_step(2.0)
    replica.complete_step(2.5)
    replica.begin_step(2.5)
    seq = replica.snapshot(2.51).seq
    replica.drain()
    snapshot = replica.snapshot(2.51)
    assert snapshot.seq > seq
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot
    assert (snapshot.running, snapshot.waiting, snapshot.draining) == (2, 0, True)
    assert snapshot.step_age_s == pytest.approx(0.01)
    assert snapshot.step_predicted_s == pytest.approx(0.034)
    a, b = snapshot.rows
    assert (a.decoding, a.prefill_tokens, a.context_tokens, a.emitted_tokens) == (True, 0, 20, 1)
    assert a.deadline_in_s == pytest.approx(1.0 + 1.0 + 0.05 - 2.51)
    assert (b.decoding, b.resident, b.prefill_tokens, b.context_tokens) == (False, True, 26, 4)
    totals = snapshot.classes["weight-1"]
    assert (totals.running, totals.prefill_tokens, totals.decode_context_tokens) == (2, 26, 20)


def test_snapshot_caps_rows_but_counts_all_and_changes_its_number_with_every_change() -> None:
    replica = make_replica()
    for number in range(MAX_ROWS + 10):
        submit(replica, f"r{number}", prompt_tokens=2)
    before = replica.snapshot(0.0)
    assert len(before.rows) == MAX_ROWS
    assert before.rows_truncated
    assert before.waiting == before.classes["weight-1"].waiting == MAX_ROWS + 10
    assert before.classes["weight-1"].prefill_tokens == 2 * (MAX_ROWS + 10)
    assert replica.snapshot(1.0).seq == before.seq
    replica.begin_step(0.0)
    during = replica.snapshot(0.0)
    replica.complete_step(0.1)
    assert before.seq < during.seq < replica.snapshot(0.1).seq


def test_a_beginning_that_is_cached_is_not_computed_but_takes_blocks() -> None:
    replica = make_replica(limits=engine_limits(blocks=10, block_size=16))
    replica.submit(
        request_id="a", terms=service_terms(), arrival_s=0.0, prompt_tokens=40, output_tokens=2, cached_tokens=32
    )
    step = replica.begin_step(0.0)
    assert step is not None
    assert [entry.tokens for entry in step.plan.entries] == [8]
    assert replica.free_blocks == 7
    assert [emission.token for emission in replica.complete_step(0.1)] == [1]


@pytest.mark.parametrize("cached_tokens", [-1, 40])
def test_more_cached_tokens_than_a_prompt_can_have_are_refused(cached_tokens: int) -> None:
    with pytest.raises(SubmitError, match="the last token of a prompt is always computed"):
        make_replica().submit(
            request_id="a",
            terms=service_terms(),
            arrival_s=0.0,
            prompt_tokens=40,
            output_tokens=2,
            cached_tokens=cached_tokens,
        )
