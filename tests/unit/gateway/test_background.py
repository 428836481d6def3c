"""What runs beside the data path: its faults are logged and counted, and it begins again."""

import asyncio

import pytest

from proserve_gateway.background import OTHER, PAUSE_S, Background
from proserve_gateway.metrics import GatewayMetrics

pytestmark = pytest.mark.looptime


class Bench:
    """Work that fails at its first turns, at the times in `began_s`."""

    def __init__(self, *, faults: int) -> None:
        self.metrics = GatewayMetrics()
        self.background = Background(self.metrics)
        self.faults = faults
        self.began_s: list[float] = []

    async def work(self) -> None:
        self.began_s.append(asyncio.get_running_loop().time())
        if len(self.began_s) <= self.faults:
            raise RuntimeError("out of paper")
        await asyncio.Event().wait()

    def failures(self, task: str) -> float | None:
        return self.metrics.registry.get_sample_value("proserve_gateway_background_failures_total", {"task": task})


async def test_what_fails_is_logged_counted_and_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(faults=2)
    bench.background.run("printer", bench.work)
    assert bench.failures("printer") == 0
    await asyncio.sleep(10 * PAUSE_S)
    assert bench.began_s == pytest.approx([0.0, PAUSE_S, 2 * PAUSE_S])
    assert bench.failures("printer") == 2
    assert caplog.text.count("in its printer") == caplog.text.count("RuntimeError: out of paper") == 2
    await bench.background.stop()


async def test_faults_of_one_leave_the_others_alone() -> None:
    good, bad = Bench(faults=0), Bench(faults=1000)
    good.background.run("good", good.work)
    good.background.run("bad", bad.work)
    await asyncio.sleep(10 * PAUSE_S)
    assert len(good.began_s) == 1
    await good.background.stop()


async def test_what_is_done_is_not_begun_again() -> None:
    bench = Bench(faults=0)
    turns = 0

    async def once() -> None:
        nonlocal turns
        turns += 1

    await bench.background.run("once", once)
    await asyncio.sleep(10 * PAUSE_S)
    assert (turns, bench.failures("once")) == (1, 0)


@pytest.mark.parametrize("faults", [0, 1])
async def test_stop_ends_what_works_and_what_pauses(faults: int) -> None:
    bench = Bench(faults=faults)
    task = bench.background.run("printer", bench.work)
    await asyncio.sleep(PAUSE_S / 2)
    await bench.background.stop()
    assert task.cancelled()
    await asyncio.sleep(10 * PAUSE_S)
    assert len(bench.began_s) == 1


async def test_faults_that_only_the_loop_hears_of_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    bench, loop = Bench(faults=1), asyncio.get_running_loop()
    bench.background.hear(loop)
    assert bench.failures(OTHER) == 0
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    forgotten = asyncio.create_task(bench.work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del forgotten
    assert bench.failures(OTHER) == 2
    assert "ZeroDivisionError" in caplog.text
    assert "out of paper" in caplog.text
