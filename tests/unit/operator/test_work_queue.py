"""Each key once at a time, failures later and later; all in simulated time."""

import asyncio
import itertools
from collections import Counter

import pytest

from proserve_operator.work_queue import LONGEST_PAUSE_S, Retry, WorkQueue

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


async def run_for(queue: WorkQueue[str], work: object, seconds: float, *, workers: int = 2) -> None:
    running = asyncio.create_task(queue.run(work, workers=workers))  # type: ignore[arg-type]
    await asyncio.sleep(seconds)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_key_added_several_times_is_done_once() -> None:
    done: Counter[str] = Counter()

    async def work(key: str) -> None:
        done[key] += 1

    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 0.5)
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    await run_for(queue, work, 1)
    assert done == {"a": 1, "b": 1}


async def test_key_added_while_it_is_worked_on_is_done_again_and_never_at_once() -> None:
    active, most, done = 0, 0, 0

    async def work(_: str) -> None:
        nonlocal active, most, done
        active += 1
        most = max(most, active)
        queue.add("a") if done == 0 else None
        await asyncio.sleep(1)
        active -= 1
        done += 1

    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 0.5)
    queue.add("a")
    await run_for(queue, work, 10, workers=4)
    assert (most, done) == (1, 2)


async def test_failures_come_back_with_growing_pauses_up_to_a_limit() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(_: str) -> None:
        times.append(loop.time())
        raise Retry

    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 0.5)
    queue.add("a")
    await run_for(queue, work, 1000)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[:3] == pytest.approx([0.5, 1.0, 2.0], abs=0.01)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_S, abs=0.01)


async def test_pause_that_the_server_asked_for_is_kept_and_success_forgets_failures() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(_: str) -> float | None:
        times.append(loop.time())
        if len(times) == 1:
            raise Retry(7.0)
        return 3.0 if len(times) == 2 else None

    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 0.5)
    queue.add("a")
    await run_for(queue, work, 100)
    assert [after - times[0] for after in times] == pytest.approx([0.0, 7.0, 10.0], abs=0.01)


async def test_looks_in_between_do_not_multiply_those_that_come_by_themselves() -> None:
    done: Counter[str] = Counter()

    async def work(key: str) -> float:
        done[key] += 1
        return 10.0

    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 0.5)
    running = asyncio.create_task(queue.run(work, workers=2))
    for _ in range(20):
        queue.add("a")
        await asyncio.sleep(0.1)
    done.clear()
    await asyncio.sleep(100)
    running.cancel()
    await asyncio.wait({running})
    assert done == {"a": 10}


async def test_of_several_times_the_earliest_counts() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(_: str) -> None:
        times.append(loop.time())

    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 0.5)
    began_s = loop.time()
    for after_s in (9.0, 4.0, 6.0):
        queue.add("a", after_s=after_s)
    await run_for(queue, work, 20)
    assert [each - began_s for each in times] == pytest.approx([4.0], abs=0.01)


async def test_fault_of_one_key_is_logged_and_tried_again_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: Counter[str] = Counter()

    async def work(key: str) -> None:
        done[key] += 1
        if key == "odd":
            raise ZeroDivisionError

    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 0.5)
    for key in ("odd", "good"):
        queue.add(key)
    await run_for(queue, work, 1.6, workers=1)
    assert done == {"odd": 3, "good": 1}
    assert "odd: an unexpected fault" in caplog.text
    assert "ZeroDivisionError" in caplog.text
