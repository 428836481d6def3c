"""Rollouts because of the operator itself: how many at a time, in which order, and which wait for nobody."""

import random

import pytest

from proserve_operator.kube_client import KubeError
from proserve_operator.rollout_turns import GENERATION_ANNOTATION, TEMPLATE_ANNOTATION
from proserve_operator.work_queue import Retry
from rollout_bench import RolloutBench

OLD, NEW = "engine:1", "engine:2"


async def replaced_operator(*names: str, at_once: int = 2) -> RolloutBench:
    """All pools have engines of the old operator; the new one has looked at none."""
    bench = RolloutBench(*names)
    bench.start_operator(image=OLD)
    await bench.look()
    await bench.engines_are_replaced(*names)
    bench.start_operator(image=NEW, at_once=at_once)
    return bench


async def test_new_pools_wait_for_nobody() -> None:
    bench = RolloutBench("a", "b", "c")
    bench.start_operator(image=OLD, at_once=1)
    await bench.look()
    assert bench.rolling == ["a", "b", "c"]
    assert bench.waiting == []


async def test_a_few_roll_and_the_others_wait_for_their_turn_in_order() -> None:
    bench = await replaced_operator("a", "b", "c", "d", "e")
    await bench.look()
    assert (bench.rolling, bench.waiting) == (["a", "b"], ["c", "d", "e"])
    await bench.engines_are_replaced("b")
    assert (bench.rolling, bench.waiting) == (["a", "c"], ["d", "e"])
    await bench.engines_are_replaced("a", "c")
    assert (bench.rolling, bench.waiting) == (["d", "e"], [])
    await bench.engines_are_replaced("d", "e")
    assert (bench.rolling, bench.waiting) == ([], [])
    assert {bench.image(name) for name in bench.names} == {NEW}
    bench.kube.requests.clear()
    await bench.look()
    assert bench.kube.requests == []


@pytest.mark.parametrize("seed", range(5))
async def test_never_more_at_a_time_and_all_in_the_end(seed: int) -> None:
    drawn = random.Random(seed)
    bench = await replaced_operator(*"abcdefghij", at_once=3)
    for _ in range(60):
        await bench.look(*drawn.sample(bench.names, k=drawn.randint(1, 10)))
        assert len(bench.rolling) <= 3
        if drawn.random() < 0.1:
            bench.start_operator(image=NEW, at_once=3, seen=drawn.random() < 0.5)
        if bench.rolling:
            await bench.engines_are_replaced(drawn.choice(bench.rolling))
    assert (bench.rolling, bench.waiting) == ([], [])
    assert {bench.image(name) for name in bench.names} == {NEW}


async def test_pools_are_known_before_their_deployments() -> None:
    bench = await replaced_operator("a", "b", "c")
    bench.start_operator(image=NEW, at_once=1, seen=False)
    await bench.look()
    assert (bench.rolling, bench.waiting) == (["a"], ["b", "c"])


async def test_who_waits_says_so_and_writes_nothing_more() -> None:
    bench = await replaced_operator("a", "b", at_once=1)
    await bench.look()
    assert bench.ready("b") == ("True", "RolloutWaits")
    assert [event["reason"] for event in bench.kube.events if event["regarding"]["name"] == "b"][-1] == "RolloutWaits"
    bench.kube.requests.clear()
    await bench.look()
    assert bench.kube.requests == []


async def test_who_waits_is_scaled_and_goes_on_waiting() -> None:
    bench = await replaced_operator("a", "b", at_once=1)
    await bench.look()
    bench.edit("b", replicas=3)
    bench.watch()
    await bench.look()
    assert bench.deployment("b")["spec"]["replicas"] == 3
    assert bench.waiting == ["b"]


async def test_who_changes_a_pool_waits_for_nobody() -> None:
    bench = await replaced_operator("a", "b", "c", at_once=1)
    bench.edit("c", engine={"args": ["--max-num-seqs=8"]})
    bench.watch()
    await bench.look()
    assert (bench.rolling, bench.waiting) == (["a", "c"], ["b"])
    bench.edit("b", engine={"args": ["--max-num-seqs=8"]})
    bench.watch()
    await bench.look()
    assert (bench.rolling, bench.waiting) == (["a", "b", "c"], [])


async def test_pool_that_rolls_anyway_takes_the_operators_change_with_it() -> None:
    bench = RolloutBench("a", "b", "c")
    bench.start_operator(image=OLD)
    await bench.look()
    await bench.engines_are_replaced("a", "b")
    bench.start_operator(image=NEW, at_once=1)
    await bench.look()
    assert bench.image("c") == NEW
    assert not bench.deployment("c")["spec"].get("paused")
    # It has the one place.
    assert bench.waiting[-1:] == ["b"]


async def test_pool_without_engines_waits_for_nobody() -> None:
    bench = RolloutBench("a", "b")
    bench.edit("b", replicas=0)
    bench.start_operator(image=OLD)
    await bench.look()
    await bench.engines_are_replaced("a", "b")
    bench.start_operator(image=NEW, at_once=1)
    await bench.look("a")
    await bench.look("b")
    assert bench.image("b") == NEW
    assert bench.waiting == []


async def test_engines_that_do_not_start_stop_the_others_also_with_another_process() -> None:
    bench = await replaced_operator("a", "b", "c", "d")
    await bench.look()
    for seen in (True, False):
        bench.start_operator(image=NEW, seen=seen)
        await bench.look("d", "c")
        assert (bench.rolling, bench.waiting) == (["a", "b"], ["c", "d"])


async def test_rollout_that_somebody_holds_takes_nobodys_place() -> None:
    bench = await replaced_operator("a", "b", at_once=1)
    await bench.look()
    held = bench.deployment("a")
    bench.kube.put({**held, "spec": {**held["spec"], "paused": True}})
    bench.watch()
    await bench.look()
    assert bench.rolling == ["b"]


async def test_deleted_pool_makes_room() -> None:
    bench = await replaced_operator("a", "b", at_once=1)
    await bench.look()
    for kind, name in (("EnginePool", "a"), ("Deployment", "engine-a")):
        bench.store.remove(kind, ("default", name))
    await bench.look("a")
    assert bench.waiting == []


async def test_rollout_that_could_not_begin_takes_no_place() -> None:
    bench = await replaced_operator("a", "b", at_once=1)
    bench.kube.refuse = lambda _, body: KubeError(503, "later") if body["metadata"]["name"] == "engine-a" else None
    with pytest.raises(Retry):
        await bench.look("a")
    await bench.look("b")
    assert bench.rolling == ["b"]


async def test_older_operator_rolls_back_without_a_rollout() -> None:
    bench = await replaced_operator("a", "b", at_once=1)
    await bench.look()
    bench.start_operator(image=OLD, at_once=1)
    await bench.look()
    assert bench.image("b") == OLD
    await bench.engines_are_replaced("a", "b")
    await bench.engines_are_replaced("a", "b")
    assert (bench.rolling, bench.waiting) == ([], [])


@pytest.mark.parametrize(("image", "waiting"), [(OLD, []), (NEW, ["b"])])
async def test_deployments_of_an_operator_without_turns_roll_only_for_another_template(
    image: str, waiting: list[str]
) -> None:
    bench = await replaced_operator("a", "b")
    for name in bench.names:
        annotations = bench.deployment(name)["metadata"]["annotations"]
        del annotations[TEMPLATE_ANNOTATION], annotations[GENERATION_ANNOTATION]
    bench.start_operator(image=image, at_once=1)
    await bench.look()
    assert bench.waiting == waiting
