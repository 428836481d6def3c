"""The timed policy is the policy, and says how long it planned."""

from engine_builders import decoding, engine_state
from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_lab.simulation.timed import TimedPolicy


def test_plans_pass_through_and_are_timed() -> None:
    state = engine_state(decoding("r"))
    timed = TimedPolicy(Fcfs())
    assert timed.plan(state) == Fcfs().plan(state)
    assert len(timed.durations_s) == 1


def test_ends_reach_a_policy_that_learns_from_them_and_no_other() -> None:
    learner = RecoverableGain()
    TimedPolicy(learner).ended(decoding("r", emitted=7), finished=True)
    assert sum(learner.learned().tables[0].events) == 1
    TimedPolicy(Fcfs()).ended(decoding("r", emitted=7), finished=True)


def test_another_clock_can_be_given() -> None:
    readings = iter((1.0, 1.5))
    timed = TimedPolicy(Fcfs(), clock=lambda: next(readings))
    timed.plan(engine_state(decoding("r")))
    assert timed.durations_s == [0.5]
