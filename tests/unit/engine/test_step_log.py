"""The engine's log of its steps."""

import time
from pathlib import Path

from proserve_core.latency import StepWork
from proserve_core.latency.step_log import decode_steps
from proserve_engine.vllm.step_log import StepLog
from proserve_engine.vllm.steps import FinishedStep

WORK = StepWork(new_tokens=7, sequences=2)


def test_each_step_is_a_line_as_soon_as_its_result_is_in(tmp_path: Path) -> None:
    path, output = tmp_path / "steps", object()
    log = StepLog(path)
    log.planning()
    log.scheduled(output, WORK)
    assert path.read_bytes() == b""
    sum(range(20_000))
    before_s = time.monotonic()
    log.result(output, FinishedStep(WORK, 0.5, 0.4), copies_s=0.1)
    (step,) = decode_steps(path.read_bytes().splitlines(keepends=True))
    assert (step.work, step.predicted_s, step.wall_s, step.copies_s) == (WORK, 0.5, 0.4, 0.1)
    assert step.cpu_s > 0
    assert before_s <= step.ended_s <= time.monotonic()
    log.close()


def test_an_engine_that_starts_again_goes_on_where_it_was(tmp_path: Path) -> None:
    for _ in range(2):
        log, output = StepLog(tmp_path / "steps"), object()
        log.planning()
        log.scheduled(output, WORK)
        log.result(output, FinishedStep(WORK, 0.5, 0.4), copies_s=0.0)
        log.close()
    assert len((tmp_path / "steps").read_bytes().splitlines()) == 2


def test_an_output_without_work_is_no_line(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "steps")
    log.result(object(), None, copies_s=0.0)
    log.idle()
    log.close()
    assert (tmp_path / "steps").read_bytes() == b""
