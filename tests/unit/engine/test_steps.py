"""Step times and step work."""

from types import SimpleNamespace

from proserve_core.latency import StepWork
from proserve_engine.vllm.steps import StepClock, work_of

WORK = StepWork(new_tokens=1, sequences=1)


def test_first_step_lasts_from_the_start_of_its_planning_to_its_result() -> None:
    clock, step = StepClock(), object()
    clock.scheduled(step, WORK, predicted_s=0.5, began_s=10.0)
    assert (clock.running_since_s, clock.running_predicted_s) == (10.0, 0.5)
    finished = clock.result(step, 10.4)
    assert finished is not None
    assert (finished.work, finished.predicted_s, round(finished.duration_s, 9)) == (WORK, 0.5, 0.4)
    assert clock.running_since_s is None


def test_second_step_in_flight_starts_when_the_first_is_done() -> None:
    clock, first, second = StepClock(), object(), object()
    clock.scheduled(first, WORK, predicted_s=0.1, began_s=10.0)
    clock.scheduled(second, WORK, predicted_s=0.1, began_s=10.01)
    clock.result(first, 10.1)
    assert clock.running_since_s == 10.1
    finished = clock.result(second, 10.25)
    assert finished is not None
    assert round(finished.duration_s, 9) == 0.15


def test_step_that_follows_another_includes_the_time_between_them() -> None:
    clock, first, second = StepClock(), object(), object()
    clock.scheduled(first, WORK, predicted_s=0.1, began_s=10.0)
    clock.result(first, 10.1)
    clock.scheduled(second, WORK, predicted_s=0.1, began_s=10.15)
    finished = clock.result(second, 10.3)
    assert finished is not None
    assert round(finished.duration_s, 9) == 0.2


def test_idle_time_belongs_to_no_step() -> None:
    clock, first, second = StepClock(), object(), object()
    clock.scheduled(first, WORK, predicted_s=0.1, began_s=10.0)
    clock.result(first, 10.1)
    clock.idle()
    clock.scheduled(second, WORK, predicted_s=0.1, began_s=99.0)
    finished = clock.result(second, 99.2)
    assert finished is not None
    assert round(finished.duration_s, 9) == 0.2


def test_output_without_work_is_no_step() -> None:
    assert StepClock().result(object(), 1.0) is None


def test_work_counts_prefills_and_decodes_apart() -> None:
    requests = {
        "prefill": SimpleNamespace(num_computed_tokens=96, num_prompt_tokens=200),
        "decode": SimpleNamespace(num_computed_tokens=301, num_prompt_tokens=200),
        "draft": SimpleNamespace(num_computed_tokens=404, num_prompt_tokens=200),
    }
    work = work_of({"prefill": 64, "decode": 1, "draft": 4}, requests, decode_tokens=4)
    assert work == StepWork(new_tokens=69, attention=64 * (64 + 2 * 32), decode_context=300 + 400, sequences=3)
