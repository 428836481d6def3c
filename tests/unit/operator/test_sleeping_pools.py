"""A pool that may have no engine: it falls asleep when nobody asks, and the first request wakes it."""

from reconcile_bench import ReconcileBench

SLEEPY = {"scaling": {"min": 0, "max": 3, "idleDelay": "60s", "scaleUpDelay": "10s"}}


async def looks(bench: ReconcileBench, times: int, *, waiting: int = 0) -> None:
    """So many, 15 s apart, while no new request comes and so many wait."""
    for _ in range(times):
        bench.report(requests=0, lost=0, waiting=waiting)
        await bench.look()
        bench.now_s += 15


async def asleep() -> ReconcileBench:
    """A pool whose only engine went."""
    bench = ReconcileBench(**SLEEPY)
    await bench.look()
    bench.engines_are(1)
    await looks(bench, 5)
    return bench


def engines(bench: ReconcileBench) -> int:
    count: int = bench.deployment["spec"]["replicas"]
    return count


async def test_pool_begins_with_one_engine() -> None:
    bench = ReconcileBench(**SLEEPY)
    await bench.look()
    assert engines(bench) == 1


async def test_idle_pool_falls_asleep_and_says_so() -> None:
    bench = await asleep()
    assert engines(bench) == 0
    assert bench.condition("ScalingActive") == ("True", "ScaledToZero")
    assert bench.condition("Ready") == ("False", "NoEngines")
    notes = [event["note"] for event in bench.kube.events if event["action"] == "ScalingActive"]
    assert notes[-1] == "1 -> 0: no request came for 60 s"


async def test_sleeping_pool_is_looked_at_often_and_writes_nothing() -> None:
    bench = await asleep()
    bench.engines_are(0)
    await bench.look()
    bench.kube.requests.clear()
    bench.report(requests=0, lost=0)
    again_s = await bench.look()
    assert bench.kube.requests == []
    assert again_s is not None
    assert again_s <= 2.0


async def test_request_that_waits_wakes_the_pool() -> None:
    bench = await asleep()
    bench.report(requests=0, lost=0, waiting=2)
    await bench.look()
    assert engines(bench) == 1
    assert bench.condition("ScalingActive") == ("True", "ScaledUp")


async def test_request_that_could_not_wait_wakes_the_pool_for_the_next_one() -> None:
    bench = await asleep()
    bench.report(requests=1, lost=1)
    await bench.look()
    assert engines(bench) == 1


async def test_running_request_keeps_the_pool_awake() -> None:
    bench = ReconcileBench(**SLEEPY)
    await bench.look()
    bench.engines_are(1)
    await looks(bench, 20, waiting=1)
    assert engines(bench) == 1


async def test_gateway_that_does_not_answer_may_have_requests() -> None:
    bench = ReconcileBench(**SLEEPY)
    await bench.look()
    bench.engines_are(1)
    bench.reports.silent = 1
    await looks(bench, 20)
    assert engines(bench) == 1
    assert bench.condition("ScalingActive") == ("False", "GatewaySilent")
    assert bench.told("GatewaySilent") == [bench.message("ScalingActive")]
    bench.reports.silent = 0
    await looks(bench, 5)
    assert engines(bench) == 0
    assert bench.condition("ScalingActive") == ("True", "ScaledToZero")


async def test_what_was_lost_while_the_first_engine_started_brings_no_second_one() -> None:
    bench = await asleep()
    bench.report(requests=0, lost=0, waiting=20)
    await bench.look()
    bench.now_s += 60
    bench.engines_are(1)
    for requests in range(0, 21, 5):
        bench.report(requests=requests, lost=requests, waiting=20 - requests)
        await bench.look()
        bench.now_s += 15
    assert engines(bench) == 1
    # What is lost long after that, too few engines have lost.
    bench.now_s += 120
    for requests in range(20, 60, 5):
        bench.report(requests=requests, lost=requests, waiting=1)
        await bench.look()
        bench.now_s += 15
    assert engines(bench) > 1
