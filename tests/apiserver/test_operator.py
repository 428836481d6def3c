"""The operator on a real API server: objects follow pools, whoever changes what, and statuses say how it goes."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from acting_operator import acting, until_healthy
from api_server import ApiServer
from cluster_objects import LIMIT_S, Namespace, condition, install_definitions, message
from resource_builders import endpoint_pool, engine_pool, priority_class, tenant


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    install_definitions(api_server)
    return api_server


@pytest.fixture
async def namespace(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Namespace]:
    """A namespace that an operator looks after."""
    made = Namespace(server)
    async with acting(server, made.name, monkeypatch, gateway_labels={"app": "gateway"}):
        yield made


def engines(ready: int, desired: int) -> str:
    """A Deployment's status, which no controller writes here."""
    return json.dumps(
        {
            "status": {
                "observedGeneration": 99, "replicas": desired, "updatedReplicas": desired, "readyReplicas": ready,
                "availableReplicas": ready, "unavailableReplicas": desired - ready,
            }
        }
    )  # fmt: skip


async def set_ready(namespace: Namespace, name: str, ready: int, desired: int) -> None:
    await namespace.kubectl(
        "patch", "deployment", name, "--subresource=status", "--type=merge", "-p", engines(ready, desired)
    )


async def test_pool_gets_its_objects_and_a_status(namespace: Namespace) -> None:
    await namespace.apply(engine_pool("tiny", replicas=2))
    pool = await namespace.until("epool", "tiny", lambda body: condition(body, "Ready"))
    assert condition(pool, "Accepted") == ("True", "Valid")
    assert condition(pool, "Ready") == ("False", "EnginesStarting")
    for kind in ("deployment", "service", "pdb", "networkpolicy"):
        body = await namespace.get(kind, "engine-tiny")
        assert body["metadata"]["ownerReferences"][0]["uid"] == pool["metadata"]["uid"]
        assert body["metadata"].get("finalizers") is None
    await set_ready(namespace, "engine-tiny", 2, 2)
    pool = await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == ("True", "EnginesReady"))
    assert pool["status"]["engines"] == "2/2"
    assert pool["status"]["observedGeneration"] == pool["metadata"]["generation"]
    assert "2/2" in await namespace.kubectl("get", "epool", "tiny")


async def test_pool_is_left_without_finalizers_and_annotations(namespace: Namespace) -> None:
    await namespace.apply(engine_pool("plain"))
    pool = await namespace.until("epool", "plain", lambda body: condition(body, "Ready"))
    assert pool["metadata"].get("finalizers") is None
    assert pool["metadata"].get("annotations") is None
    await namespace.kubectl("delete", "epool", "plain", "--wait=true", "--timeout=120s")


async def test_settings_that_change_are_applied(namespace: Namespace) -> None:
    await namespace.apply(engine_pool("changing", engine={"env": [{"name": "A", "value": "1"}]}))
    await namespace.until("deployment", "engine-changing", lambda body: body)
    await namespace.apply(engine_pool("changing", engine={"args": ["--max-num-seqs=8"]}))

    def changed(body: object) -> bool:
        text = json.dumps(body)
        return "--max-num-seqs=8" in text and '"name": "A"' not in text

    await namespace.until("deployment", "engine-changing", changed)


async def test_rollout_that_somebody_paused_waits_for_him(namespace: Namespace) -> None:
    await namespace.apply(engine_pool("held"))
    await namespace.until("deployment", "engine-held", lambda body: body)
    await namespace.kubectl("rollout", "pause", "deployment/engine-held")
    await namespace.apply(engine_pool("held", engine={"env": [{"name": "A", "value": "1"}]}))
    changed = await namespace.until("deployment", "engine-held", lambda body: '"A"' in json.dumps(body["spec"]))
    assert changed["spec"]["paused"] is True


async def test_scaling_the_pool_scales_its_engines(namespace: Namespace) -> None:
    await namespace.apply(engine_pool("sized", replicas=1))
    await namespace.until("deployment", "engine-sized", lambda body: body)
    await namespace.kubectl("scale", "epool/sized", "--replicas=4")
    await namespace.until("deployment", "engine-sized", lambda body: body["spec"]["replicas"] == 4)
    await namespace.kubectl("scale", "epool/sized", "--replicas=0")
    pool = await namespace.until("epool", "sized", lambda body: condition(body, "Ready") == ("False", "NoEngines"))
    assert pool["status"]["engines"] == "0/0"


async def test_drift_is_corrected_and_what_others_add_is_left_alone(namespace: Namespace) -> None:
    await namespace.apply(engine_pool("drifting", replicas=2))
    await namespace.until("epool", "drifting", lambda body: condition(body, "Ready"))
    await namespace.kubectl("annotate", "deployment", "engine-drifting", "team.example/note=ours")
    await namespace.kubectl("scale", "deployment", "engine-drifting", "--replicas=7")
    await namespace.kubectl("delete", "service", "engine-drifting")
    body = await namespace.until("deployment", "engine-drifting", lambda body: body["spec"]["replicas"] == 2)
    assert body["metadata"]["annotations"]["team.example/note"] == "ours"
    await namespace.until("service", "engine-drifting", lambda body: body)


async def test_objects_of_others_are_never_taken_over(namespace: Namespace) -> None:
    theirs = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "engine-taken"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    }  # fmt: skip
    await namespace.apply(theirs, engine_pool("taken"))
    pool = await namespace.until("epool", "taken", lambda body: condition(body, "Ready") == ("False", "NameTaken"))
    assert "a Service engine-taken exists" in message(pool, "Ready")
    service = await namespace.get("service", "engine-taken")
    assert service["spec"]["selector"] == {"app": "theirs"}
    await namespace.kubectl("delete", "service", "engine-taken")
    # Nobody tells the operator of an object without its labels: it looks again by itself.
    await namespace.until("epool", "taken", lambda body: condition(body, "Ready") == ("False", "EnginesStarting"))


async def test_what_the_api_server_refuses_is_said_in_its_words(namespace: Namespace) -> None:
    wrong = {"spec": {"containers": [{"name": "engine", "terminationMessagePolicy": "Never"}]}}
    await namespace.apply(engine_pool("refused", pod={"template": wrong}))
    pool = await namespace.until("epool", "refused", lambda body: condition(body, "Ready") == ("False", "ApplyRefused"))
    assert "terminationMessagePolicy" in message(pool, "Ready")
    events = await namespace.kubectl("get", "events", "-o", "json")
    assert "ApplyRefused" in {event["reason"] for event in json.loads(events)["items"]}
    await namespace.apply(engine_pool("refused"))
    await namespace.until("epool", "refused", lambda body: condition(body, "Ready") == ("False", "EnginesStarting"))


async def test_engines_go_when_others_run_them(namespace: Namespace) -> None:
    pool = engine_pool("handed", model={"name": "outside", "uri": "generated://tiny"})
    await namespace.apply(pool)
    await namespace.until("epool", "handed", lambda body: condition(body, "Ready"))
    await namespace.kubectl("delete", "epool", "handed")
    await namespace.kubectl("delete", "deployment,service,pdb,networkpolicy", "--all")
    await namespace.apply(pool)
    await namespace.until("deployment", "engine-handed", lambda body: body)
    await namespace.apply(endpoint_pool("handed"))
    await namespace.until("deployment", "engine-handed", lambda body: body is None)
    found = await namespace.until(
        "epool", "handed", lambda body: condition(body, "Ready") == ("Unknown", "ExternalEngines")
    )
    assert "replicas" not in found["status"]


async def test_resources_that_contradict_each_other_are_told_so(namespace: Namespace) -> None:
    await namespace.apply(tenant("lost", priorityClassName=f"gone-{namespace.name}"))
    lost = await namespace.until("ptn", "lost", lambda body: condition(body, "Accepted"))
    assert condition(lost, "Accepted") == ("False", "UnresolvedReference")
    assert f"there is no PriorityClass 'gone-{namespace.name}'" in message(lost, "Accepted")
    await namespace.apply(priority_class(f"gone-{namespace.name}"))
    await namespace.until("ptn", "lost", lambda body: condition(body, "Accepted") == ("True", "Valid"))
    await namespace.apply(engine_pool("first", model={"name": "same", "uri": "generated://tiny"}))
    await namespace.until("epool", "first", lambda body: condition(body, "Accepted") == ("True", "Valid"))
    await namespace.apply(engine_pool("second", model={"name": "same", "uri": "generated://tiny"}))
    second = await namespace.until("epool", "second", lambda body: condition(body, "Accepted"))
    assert condition(second, "Accepted") == ("False", "UnresolvedReference")
    assert condition(second, "Ready") == ("False", "Invalid")
    assert await namespace.get("deployment", "engine-second") is None


async def test_nothing_is_written_while_nothing_changes(namespace: Namespace) -> None:
    await namespace.apply(engine_pool("calm", resources={"limits": {"cpu": "1000m", "memory": "1.5Gi"}}))
    await namespace.until("epool", "calm", lambda body: condition(body, "Ready"))
    await set_ready(namespace, "engine-calm", 1, 1)
    await namespace.until("epool", "calm", lambda body: condition(body, "Ready") == ("True", "EnginesReady"))

    async def versions() -> list[str]:
        bodies = [await namespace.get(*each) for each in (("epool", "calm"), ("deployment", "engine-calm"))]
        return [body["metadata"]["resourceVersion"] for body in bodies]

    async with asyncio.timeout(LIMIT_S):
        before: list[str] = []
        while before != (now := await versions()):
            before = now
            # Several rounds of reports and audits.
            await asyncio.sleep(6)


async def test_api_server_that_goes_away_and_comes_back(
    own_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_definitions(own_api_server)
    made = Namespace(own_api_server)
    async with acting(own_api_server, made.name, monkeypatch) as run:
        await made.apply(engine_pool("before"))
        await made.until("epool", "before", lambda body: condition(body, "Ready"))
        await asyncio.to_thread(own_api_server.stop)
        await asyncio.sleep(3)
        await asyncio.to_thread(own_api_server.start)
        await made.apply(engine_pool("after", model={"name": "after", "uri": "generated://tiny"}))
        await made.until("epool", "after", lambda body: condition(body, "Ready"))
        await made.kubectl("delete", "service", "engine-before")
        await made.until("service", "engine-before", lambda body: body)
        await asyncio.to_thread(own_api_server.pause)
        await asyncio.sleep(3)
        await asyncio.to_thread(own_api_server.resume)
        await made.kubectl("scale", "epool/after", "--replicas=3")
        await made.until("deployment", "engine-after", lambda body: body["spec"]["replicas"] == 3)
        await until_healthy(run)
