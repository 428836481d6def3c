"""A new operator makes the pods of all pools otherwise, beside the controllers that replace them: few at a time."""

import json
from typing import Any

import pytest

from acting_operator import acting
from api_server import ApiServer
from cluster_objects import Namespace, condition
from proserve_operator.rollout_turns import WAITING, is_rolling, rollout_state
from resource_builders import engine_pool

OLD, NEW = "registry.example/engine:1", "registry.example/engine:2"
WAITS = ("True", "RolloutWaits")


def pool(name: str, **spec: Any) -> dict[str, Any]:
    return engine_pool(name, model={"name": name, "uri": "generated://tiny"}, **spec)


async def images(namespace: Namespace, name: str) -> list[str]:
    """Of the pool's pods."""
    path = "jsonpath={.items[*].spec.containers[0].image}"
    return (await namespace.kubectl("get", "pods", "-l", f"proserve.dev/pool={name}", "-o", path)).split()


async def become_ready(namespace: Namespace, name: str, image: str) -> None:
    """The pool's pods of that image, of which there is one at least: no kubelet says it."""
    status = json.dumps({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    await namespace.until("deployment", f"engine-{name}", lambda body: body["status"].get("updatedReplicas"))
    found = json.loads(await namespace.kubectl("get", "pods", "-l", f"proserve.dev/pool={name}", "-o", "json"))["items"]
    names = [each["metadata"]["name"] for each in found if each["spec"]["containers"][0]["image"] == image]
    await namespace.kubectl("patch", "pods", *names, "--subresource=status", "-p", status)


def is_done(deployment: Any) -> bool:
    """Whether all pods are of the newest template, as the controller says."""
    return not is_rolling(deployment)


async def test_pools_roll_one_after_the_other_for_a_new_operator(
    controlled_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = Namespace(controlled_api_server)
    names = ("one", "three", "two")
    async with acting(controlled_api_server, namespace.name, monkeypatch, engine_image=OLD):
        await namespace.apply(*map(pool, names))
        for name in names:
            await namespace.until("deployment", f"engine-{name}", lambda body: body)
            await become_ready(namespace, name, OLD)
            await namespace.until("deployment", f"engine-{name}", is_done)
    async with acting(controlled_api_server, namespace.name, monkeypatch, engine_image=NEW, max_concurrent_rollouts=1):
        decided = [await namespace.until("deployment", f"engine-{name}", rollout_state) for name in names]
        first, *held = sorted(names, key=lambda name: rollout_state(decided[names.index(name)]) == WAITING)
        assert [rollout_state(each) for each in decided].count(WAITING) == 2
        for name in held:
            await namespace.until("epool", name, lambda body: condition(body, "Ready") == WAITS)
        # Held ones are scaled, with the engines that they have.
        await namespace.kubectl("scale", f"epool/{held[0]}", "--replicas=2")
        await namespace.until("deployment", f"engine-{held[0]}", lambda body: body["status"].get("replicas") == 2)
        assert await images(namespace, held[0]) == [OLD, OLD]
        # Who changes a pool waits for nobody.
        await namespace.apply(pool(held[1], engine={"args": ["--max-num-seqs=8"]}))
        await become_ready(namespace, held[1], NEW)
        await namespace.until("deployment", f"engine-{held[1]}", is_done)
        # The place is free when its rollout is done.
        await become_ready(namespace, first, NEW)
        await namespace.until(
            "deployment", f"engine-{held[0]}", lambda body: body["status"].get("updatedReplicas") == 1
        )
        assert NEW in await images(namespace, held[0])
