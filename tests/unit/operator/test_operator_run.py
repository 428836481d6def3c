"""The acting operator over a cluster in memory: what watches show reaches judgement and statuses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fake_kube import FakeKube, Object
from proserve_operator import operator_run
from proserve_operator.kube_client import KubeError
from proserve_operator.operator_run import KindsChangedError, OperatorRun
from proserve_operator.reports import Reports
from proserve_operator.settings import OperatorSettings
from resource_builders import priority_class

LIMIT_S = 30.0
GAUGES = ("gateways_silent", "unlisted")


class Acting:
    """An operator that leads, with a hand in place of its watches."""

    def __init__(self, kube: FakeKube, run: OperatorRun) -> None:
        self.kube = kube
        self.run = run

    def shown(self, body: Object, event: str | None = "MODIFIED") -> None:
        self.run.seen(body["kind"], event, body)

    def status(self, kind: str, name: str, namespace: str = "") -> Any:
        return self.kube.objects[kind, namespace, name].get("status", {})

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not done():  # noqa: ASYNC110 - what is awaited is seen from outside
                await asyncio.sleep(0.01)


@pytest.fixture
def without_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(*_: object, ready: asyncio.Event, **__: object) -> None:
        ready.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(operator_run, "watch", watch)


class FailingWatches:
    """Set `broken`, and they fail as that of a kind that is not served."""

    def __init__(self) -> None:
        self.begun, self.broken = asyncio.Event(), asyncio.Event()

    async def watch(self, *_: object, ready: asyncio.Event, **__: object) -> None:
        ready.set()
        self.begun.set()
        await self.broken.wait()
        raise LookupError("404 page not found")


@pytest.fixture
def failing_watches(monkeypatch: pytest.MonkeyPatch) -> FailingWatches:
    made = FailingWatches()
    monkeypatch.setattr(operator_run, "watch", made.watch)
    return made


@pytest.fixture
async def acting(without_watches: None) -> AsyncIterator[Acting]:
    kube = FakeKube()
    run = OperatorRun(kube, OperatorSettings())
    task = asyncio.create_task(run.act())
    try:
        yield Acting(kube, run)
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.looptime
@pytest.mark.parametrize("missing", ["Tenant", "EnginePool"])
async def test_operator_says_at_once_that_it_lacks_a_kind_and_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    kube, clock = FakeKube(), asyncio.get_running_loop().time

    async def serves(kind: str) -> bool:
        # As slow as requests to a busy API server.
        await asyncio.sleep(10.0)
        return kind != missing

    monkeypatch.setattr(kube, "serves", serves)
    acting = asyncio.create_task(OperatorRun(kube, OperatorSettings(), clock=clock).act())
    problem = f"the cluster does not serve {missing}: install the chart proserve-crds"
    await asyncio.sleep(35.0)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"not begun, asked again for 120 s: {problem}"
    with pytest.raises(KubeError, match=problem):
        await acting
    assert clock() < 160.0
    assert len(caplog.records) == 1


def high(*, generation: int, **spec: Any) -> Object:
    body = priority_class("high", **spec)
    body["metadata"] |= {"uid": "u", "generation": generation}
    return body


async def test_edit_that_came_with_the_reply_to_a_status_is_judged_when_the_watch_shows_it(acting: Acting) -> None:
    acting.shown(acting.kube.put(high(generation=1)), None)
    await acting.until(lambda: acting.status("PriorityClass", "high"))
    before = acting.kube.objects["PriorityClass", "", "high"]
    edited = acting.kube.put({**high(generation=2, weight=-1), "status": {}})
    # The status is wanting, so a look writes it, and the reply has the edit in it.
    acting.shown({**before, "status": {}, "metadata": {**before["metadata"], "resourceVersion": "old"}})
    await acting.until(lambda: acting.status("PriorityClass", "high"))
    assert acting.status("PriorityClass", "high")["observedGeneration"] == 1
    acting.shown(edited)
    acting.shown(acting.kube.objects["PriorityClass", "", "high"])
    await acting.until(lambda: acting.status("PriorityClass", "high")["observedGeneration"] == 2)
    (accepted,) = acting.status("PriorityClass", "high")["conditions"]
    assert (accepted["status"], accepted["reason"]) == ("False", "Invalid")


@pytest.mark.looptime
async def test_operator_waits_for_kinds_that_are_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    kube, asked, watched = FakeKube(), 0, asyncio.Event()

    async def serves(_: str) -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    async def watch(*_: object, **__: object) -> None:
        watched.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(kube, "serves", serves)
    monkeypatch.setattr(operator_run, "watch", watch)
    acting = asyncio.create_task(OperatorRun(kube, OperatorSettings()).act())
    await asyncio.wait_for(watched.wait(), LIMIT_S)
    assert asked > 20
    acting.cancel()
    await asyncio.wait({acting})


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("monitors", "answers", "said"),
    [
        (True, [False, True], "now has"),
        (True, [True, False], "no longer has"),
        # An API server that has just started does not know all kinds at once.
        (True, [True, False, True], None),
        # Nothing would be made of the kind; but what is there is removed, so it is watched.
        (False, [False, True], None),
        (False, [True, False], "no longer has"),
    ],
)
async def test_operator_is_started_anew_when_the_prometheus_operator_comes_or_goes(
    without_watches: None, monkeypatch: pytest.MonkeyPatch, monitors: bool, answers: list[bool], said: str | None
) -> None:
    kube, asked = FakeKube(), 0

    async def serves(kind: str) -> bool:
        """At the start and at each audit; the last answer lasts."""
        nonlocal asked
        if kind != "ServiceMonitor":
            return True
        asked += 1
        return answers[min(asked, len(answers)) - 1]

    monkeypatch.setattr(kube, "serves", serves)
    settings = OperatorSettings(monitors=monitors)
    task = asyncio.create_task(OperatorRun(kube, settings).act())
    done, _ = await asyncio.wait({task}, timeout=10 * settings.resync_s)
    if said is None:
        assert not done
        assert asked > len(answers)
        task.cancel()
        await asyncio.wait({task})
    else:
        with pytest.raises(KindsChangedError, match=f"the cluster {said} the kind ServiceMonitor"):
            await task


@pytest.mark.parametrize(("unknown", "ends_with"), [({"ServiceMonitor"}, KindsChangedError), (set[str](), LookupError)])
async def test_failing_watch_is_the_kinds_fault_if_that_is_gone(
    failing_watches: FailingWatches, unknown: set[str], ends_with: type[Exception]
) -> None:
    kube = FakeKube()
    kube.unknown_kinds = set()
    task = asyncio.create_task(OperatorRun(kube, OperatorSettings()).act())
    await failing_watches.begun.wait()
    kube.unknown_kinds = unknown
    failing_watches.broken.set()
    with pytest.raises(ends_with):
        await asyncio.wait_for(task, LIMIT_S)


@pytest.mark.looptime
async def test_operator_asks_again_when_the_api_server_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    kube, asked = FakeKube(), 0

    async def serves(_: str) -> bool:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise KubeError(503, "busy") if asked < 20 else KubeError(401, "who are you")
        return True

    monkeypatch.setattr(kube, "serves", serves)
    with pytest.raises(KubeError, match="who are you"):
        await OperatorRun(kube, OperatorSettings()).act()
    assert asked == 21


@pytest.mark.looptime
async def test_operator_that_does_not_see_everything_says_so(
    without_watches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(reports: Reports, *, now_s: float) -> None:
        reports.silent = 2

    monkeypatch.setattr(Reports, "read", read)
    kube = FakeKube()
    kube.forbidden = {None}
    run = OperatorRun(kube, OperatorSettings(resync_s=300.0))
    task = asyncio.create_task(run.act())
    await asyncio.sleep(400.0)
    figures = {name: run.metrics.registry.get_sample_value(f"proserve_operator_{name}") for name in GAUGES}
    # Our three kinds, and four of what is made for pools.
    assert figures == {"gateways_silent": 2.0, "unlisted": 7.0}
    assert run.unhealthy == []
    await asyncio.sleep(300.0)
    assert len(run.unhealthy) == 7
    task.cancel()
    await asyncio.wait({task})
