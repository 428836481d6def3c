"""When deadline order is trusted."""

import numpy as np
import pytest

from proserve_core.batching.load_gate import LoadGate, prompts_feasible


def seconds_until_trusted(gate: LoadGate, *, step_s: float = 0.1, limit_s: float = 120.0) -> float:
    for step in range(int(limit_s / step_s)):
        if gate.note(True, step_s):
            return (step + 1) * step_s
    raise AssertionError("never trusted")


def test_overload_is_assumed_until_half_a_minute_was_feasible() -> None:
    # (1 - 0.1/10)^n <= 0.05: n = 299.
    assert seconds_until_trusted(LoadGate()) == pytest.approx(29.9)


def test_a_second_of_overload_costs_ten_seconds_of_trust() -> None:
    gate = LoadGate()
    seconds_until_trusted(gate)
    for _ in range(10):
        assert not gate.note(False, 0.1)
    assert 8 < seconds_until_trusted(gate) < 13


def test_no_time_changes_nothing() -> None:
    gate = LoadGate()
    gate.note(False, 0.0)
    gate.note(True, 0.0)
    assert gate.overload == 1.0


def test_prompts_are_feasible_when_each_is_done_in_time_after_those_due_before_it() -> None:
    slack_s = np.array([0.5, 0.2, 0.9])
    # By deadline: 0.1, 0.1 + 0.15, 0.25 + 0.2, in half of the time.
    assert prompts_feasible(slack_s, np.array([0.15, 0.1, 0.2]), 0.5)
    assert not prompts_feasible(slack_s, np.array([0.16, 0.1, 0.2]), 0.5)
    assert prompts_feasible(slack_s, np.array([0.16, 0.1, 0.2]), 0.6)
    assert prompts_feasible(np.empty(0), np.empty(0), 0.5)
