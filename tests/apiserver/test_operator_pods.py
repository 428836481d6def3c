"""The operator beside the controllers that make pods of Deployments: which may not come, which go first, how many."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from acting_operator import acting
from api_server import ApiServer
from cluster_objects import Namespace, condition, message
from fake_gateway import fake_gateway
from proserve_core.gain import GainTotals, LossCause
from proserve_core.gain_report import EngineReport, GainReport
from proserve_operator import desired
from resource_builders import engine_pool


@pytest.fixture
async def namespace(controlled_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Namespace]:
    """A namespace that an operator looks after."""
    made = Namespace(controlled_api_server)
    async with acting(controlled_api_server, made.name, monkeypatch):
        yield made


async def test_quota_that_leaves_no_room_for_pods_is_told_in_the_pool(namespace: Namespace) -> None:
    await namespace.kubectl("create", "quota", "none", "--hard=pods=0")
    await namespace.until("quota", "none", lambda body: "pods" in body.get("status", {}).get("hard", {}))
    await namespace.apply(engine_pool("tiny"))
    pool = await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == ("False", "PodsRefused"))
    assert "exceeded quota: none" in message(pool, "Ready")
    events = await namespace.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
    assert "PodsRefused" in events.split()
    await namespace.kubectl("delete", "quota", "none")
    await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == ("False", "EnginesStarting"))


async def test_pods_pass_pod_security_restricted_unless_the_pool_asks_for_more(namespace: Namespace) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    await namespace.kubectl("label", "namespace", namespace.name, label)
    await namespace.apply(
        engine_pool("plain"),
        engine_pool(
            "cached", model={"name": "cached", "uri": "generated://tiny"}, pod={"modelCache": {"hostPath": "/models"}}
        ),
    )
    refused = ("False", "PodsRefused")
    pool = await namespace.until("epool", "cached", lambda body: condition(body, "Ready") == refused)
    assert 'violates PodSecurity "restricted' in message(pool, "Ready")
    assert "hostPath" in message(pool, "Ready")
    await namespace.until("deployment", "engine-plain", has_pods(1))


def has_pods(count: int) -> Callable[[Any], bool]:
    """Of a Deployment."""
    return lambda body: body is not None and body.get("status", {}).get("replicas") == count


async def become_ready(namespace: Namespace, *names: str) -> None:
    """These pods: no kubelet says it."""
    status = json.dumps({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    await namespace.kubectl("patch", "pods", *names, "--subresource=status", "-p", status)


async def test_rollout_whose_pods_never_become_ready_is_told_until_they_do(
    controlled_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desired, "ROLLOUT_MARGIN_S", 0)
    namespace = Namespace(controlled_api_server)
    engine = {"startLimit": "10s"}
    async with acting(controlled_api_server, namespace.name, monkeypatch):
        await namespace.apply(engine_pool("tiny", engine=engine))
        await namespace.until("deployment", "engine-tiny", has_pods(1))
        old = await pods(namespace)
        await become_ready(namespace, *old)
        await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == ("True", "EnginesReady"))
        await namespace.apply(engine_pool("tiny", engine=engine | {"args": ["--not-an-option"]}))
        # The engine of the version before serves on.
        stuck = ("True", "RolloutStuck")
        pool = await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == stuck)
        assert message(pool, "Ready").startswith("1 of 1 engines are ready; pods of the newest version do not become")
        events = await namespace.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
        assert "RolloutStuck" in events.split()
        await become_ready(namespace, *(await pods(namespace) - old))
        await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == ("True", "EnginesReady"))


class Clock:
    """Time that goes on when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1.0e9

    def __call__(self) -> float:
        return self.now_s


def report(
    namespace: Namespace, *, stakes: dict[str, float] | None = None, requests: int = 0, lost: float = 0.0
) -> GainReport:
    """Of pool `tiny`: what requests at its pods are worth, and sums of requests worth 1 each."""
    pool = f"{namespace.name}/tiny"
    totals = GainTotals(
        requests=requests, earnable=float(requests), earned=requests - lost, lost={LossCause.SHED: lost}
    )
    engines = [
        EngineReport(name=f"{namespace.name}/{name}", pool=pool, ready=True, stake=stake)
        for name, stake in (stakes or {}).items()
    ]
    return GainReport(
        instance="g", classes={}, tenants={}, pools={pool: {"high": totals}}, engines=engines,
        loss_with_one_less={pool: lost / requests if requests else 0.0},
    )  # fmt: skip


async def pods(namespace: Namespace) -> set[str]:
    return set((await namespace.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.name}")).split())


async def test_engines_whose_requests_are_worth_least_go_first(
    controlled_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = Namespace(controlled_api_server)
    with fake_gateway() as gateway:
        server = controlled_api_server
        async with acting(server, namespace.name, monkeypatch, gateway_admin=gateway.url, report_s=0.2):
            await namespace.apply(engine_pool("tiny", replicas=6))
            await namespace.until("deployment", "engine-tiny", has_pods(6))
            # Neither by name nor by age: pods were made in some order at about the same time.
            stakes = dict(zip(sorted(await pods(namespace)), (30.0, 0.0, 10.0, 40.0, 2.0, 20.0), strict=True))
            await gateway.say(report(namespace, stakes=stakes))
            await namespace.kubectl("scale", "epool/tiny", "--replicas=3")
            await namespace.until("deployment", "engine-tiny", has_pods(3))
            assert {stakes[name] for name in await pods(namespace)} == {20.0, 30.0, 40.0}


async def test_engines_follow_the_gain_that_gateways_report(
    controlled_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, clock = Namespace(controlled_api_server), Clock()
    requests, lost = 100, 0.0

    async def ready(engines: int) -> None:
        await namespace.until("deployment", "engine-tiny", has_pods(engines))
        await become_ready(namespace, *await pods(namespace))
        await namespace.until(
            "epool", "tiny", lambda body: body.get("status", {}).get("engines") == f"{engines}/{engines}"
        )

    async def goes_on_until(engines: int, *, lost_share: float, stakes: dict[str, float] | None = None) -> None:
        """A hundred requests in each quarter of a minute."""
        nonlocal requests, lost
        for _ in range(40):
            await gateway.say(report(namespace, stakes=stakes, requests=requests, lost=lost))
            if (await namespace.get("deployment", "engine-tiny"))["spec"]["replicas"] == engines:
                return
            clock.now_s += 15
            requests, lost = requests + 100, lost + 100 * lost_share
        raise AssertionError(f"ten minutes of it did not bring {engines} engines")

    with fake_gateway() as gateway:
        times: dict[str, Any] = {"clock": clock, "wall_clock": clock, "report_s": 0.1}
        async with acting(controlled_api_server, namespace.name, monkeypatch, gateway_admin=gateway.url, **times):
            scaling = {"min": 1, "max": 2, "scaleUpDelay": "30s", "scaleDownDelay": "60s"}
            await namespace.apply(engine_pool("tiny", scaling=scaling))
            await ready(1)
            (first,) = await pods(namespace)
            await goes_on_until(2, lost_share=0.1)
            await ready(2)
            pool = await namespace.get("epool", "tiny")
            assert condition(pool, "ScalingActive") == ("True", "ScaledUp")
            (second,) = await pods(namespace) - {first}
            await goes_on_until(1, lost_share=0.0, stakes={first: 1.0, second: 7.0})
            found = ("True", "ScaledDown")
            await namespace.until("epool", "tiny", lambda body: condition(body, "ScalingActive") == found)
            await namespace.until("deployment", "engine-tiny", has_pods(1))
            assert await pods(namespace) == {second}
    events = json.loads(await namespace.kubectl("get", "events", "-o", "json"))["items"]
    notes = [each["message"] for each in events if each["reason"] in ("ScaledUp", "ScaledDown")]
    assert sorted(note[:6] for note in notes) == ["1 -> 2", "2 -> 1"]
