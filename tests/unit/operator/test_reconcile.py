"""One look at a pool: what is written, what is not, and what happens when the API server refuses."""

from typing import Any

import pytest

from proserve_operator.kube_client import KubeError
from proserve_operator.status_writer import FAILURES_TOLD
from proserve_operator.work_queue import Retry
from reconcile_bench import KEY, ReconcileBench
from resource_builders import Data


async def test_second_look_writes_nothing() -> None:
    bench = ReconcileBench()
    await bench.look()
    assert bench.kube.requests == [
        "apply Service engine-tiny",
        "apply Deployment engine-tiny",
        "apply PodDisruptionBudget engine-tiny",
        "apply EnginePool tiny status",
    ]
    assert await bench.quiet_look() == []


async def test_only_what_changed_is_written() -> None:
    bench = ReconcileBench()
    await bench.look()
    bench.edit(engine={"args": ["--max-num-seqs=8"]})
    assert await bench.quiet_look() == ["apply Deployment engine-tiny", "apply EnginePool tiny status"]
    bench.engines_are(1)
    assert await bench.quiet_look() == ["apply EnginePool tiny status"]
    assert bench.condition("Ready") == ("True", "EnginesReady")


async def test_status_is_of_the_generation_that_was_judged_not_of_an_edit_since_then() -> None:
    bench = ReconcileBench()
    await bench.look()
    bench.edit_unseen(replicas=2)
    bench.engines_are(1)
    await bench.look()
    assert bench.condition("Ready") == ("True", "EnginesReady")
    assert bench.observed_generations == {1}
    bench.accepted.judge()
    await bench.look()
    assert bench.condition("Ready") == ("True", "SomeEnginesMissing")
    assert bench.observed_generations == {2}


async def test_judgement_of_a_deleted_pool_is_not_that_of_the_next_of_its_name() -> None:
    bench = ReconcileBench(replicas=2)
    await bench.look()
    bench.edit_unseen(uid="another")
    assert await bench.quiet_look() == []


async def test_other_processes_go_on_from_the_cluster() -> None:
    bench = ReconcileBench()
    await bench.look()
    another = ReconcileBench()
    another.kube.objects = bench.kube.objects
    another.store.put("EnginePool", another.kube.objects["EnginePool", *KEY])
    another.accepted.judge()
    assert await another.quiet_look() == []


@pytest.mark.parametrize("status", [409, 429, 500, 503, 0])
async def test_what_may_go_well_later_is_tried_again(status: int) -> None:
    bench = ReconcileBench()
    bench.kube.refuse = lambda *_: KubeError(status, "later", retry_after_s=7.0)
    with pytest.raises(Retry) as retry:
        await bench.look()
    assert retry.value.after_s == 7.0
    bench.kube.refuse = lambda *_: None
    await bench.look()
    assert bench.condition("Ready") == ("False", "EnginesStarting")


async def test_what_is_refused_for_good_is_a_condition_and_the_rest_is_made() -> None:
    bench = ReconcileBench()
    refusal = KubeError(422, "spec.template is wrong")
    bench.kube.refuse = lambda _, body: refusal if body["kind"] == "Deployment" else None
    await bench.look()
    assert bench.condition("Ready") == ("False", "ApplyRefused")
    assert ("Service", "default", "engine-tiny") in bench.kube.objects
    assert [event["reason"] for event in bench.kube.events] == ["ApplyRefused"]


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodDisruptionBudget"])
@pytest.mark.parametrize("status", [403, 404, 422])
async def test_engines_come_and_are_ready_without_objects_that_they_do_not_need(kind: str, status: int) -> None:
    bench = ReconcileBench()
    bench.with_monitor = True
    bench.kube.refuse = lambda _, body: KubeError(status, "refused") if body["kind"] == kind else None
    await bench.look()
    assert bench.condition("Ready") == ("False", "ApplyRefused")
    bench.engines_are(1)
    await bench.look()
    assert bench.condition("Ready") == ("True", "ApplyRefused")
    assert bench.message("Ready") == f"1 of 1 engines are ready; {kind} engine-tiny: refused"


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodDisruptionBudget"])
async def test_engines_come_while_what_they_do_not_need_fails_and_that_is_told_if_it_lasts(kind: str) -> None:
    bench = ReconcileBench()
    bench.with_monitor = True
    bench.kube.refuse = lambda _, body: KubeError(500, "webhook is down") if body["kind"] == kind else None
    await bench.failing_looks(FAILURES_TOLD)
    assert bench.deployment["spec"]["replicas"] == 1
    assert bench.condition("Ready") == ("False", "ApplyFails")
    bench.engines_are(1)
    await bench.failing_looks(1)
    assert bench.condition("Ready") == ("True", "ApplyFails")
    bench.kube.refuse = lambda *_: None
    await bench.look()
    assert bench.condition("Ready") == ("True", "EnginesReady")


@pytest.mark.parametrize("status", [409, 429, 500, 503, 0])
async def test_what_fails_for_long_is_told_in_the_pool_and_in_an_event(status: int) -> None:
    bench = ReconcileBench()
    bench.kube.refuse = lambda _, body: KubeError(status, "webhook is down") if body["kind"] == "Deployment" else None
    await bench.failing_looks(FAILURES_TOLD - 1)
    assert "status" not in bench.kube.requests[-1]
    await bench.failing_looks(1)
    assert bench.condition("Ready") == ("False", "ApplyFails")
    assert bench.message("Ready") == "0 of 1 engines are ready; webhook is down"
    assert [event["reason"] for event in bench.kube.events] == ["ApplyFails"]
    bench.kube.refuse = lambda *_: None
    await bench.look()
    assert bench.condition("Ready") == ("False", "EnginesStarting")


async def test_failures_count_only_in_a_row() -> None:
    bench = ReconcileBench()
    for _ in range(3):
        bench.kube.refuse = lambda _, body: KubeError(503, "later") if body["kind"] == "Deployment" else None
        await bench.failing_looks(FAILURES_TOLD - 1)
        bench.kube.refuse = lambda *_: None
        await bench.look()
        bench.kube.objects.pop(("Deployment", "default", "engine-tiny"))
        bench.store.remove("Deployment", ("default", "engine-tiny"))
    assert bench.condition("Ready") == ("False", "EnginesStarting")


async def test_status_that_cannot_be_written_for_long_is_told_in_an_event() -> None:
    bench = ReconcileBench()
    bench.kube.refuse = lambda _, body: KubeError(500, "no quorum") if body["kind"] == "EnginePool" else None
    await bench.failing_looks(FAILURES_TOLD)
    assert [(event["reason"], event["note"]) for event in bench.kube.events] == [("StatusNotWritten", "no quorum")]


async def test_pod_template_of_another_form_is_a_condition_that_names_the_field() -> None:
    bench = ReconcileBench(pod={"template": {"metadata": "x"}})
    await bench.look()
    assert bench.condition("Ready") == ("False", "Invalid")
    assert "spec.pod.template.metadata" in bench.message("Ready")


@pytest.mark.parametrize("template", [{"metadata": None}, {"metadata": {"labels": None}}])
async def test_pods_are_found_even_if_the_template_removes_labels(template: Data) -> None:
    bench = ReconcileBench(pod={"template": template})
    await bench.look()
    found = bench.deployment["spec"]
    assert found["selector"]["matchLabels"].items() <= found["template"]["metadata"]["labels"].items()


async def test_pool_that_is_going_gets_nothing_more() -> None:
    bench = ReconcileBench()
    body = bench.kube.objects["EnginePool", *KEY]
    body["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    bench.store.put("EnginePool", bench.kube.put(body))
    assert await bench.quiet_look() == []


async def test_namespace_that_is_gone_is_no_failure() -> None:
    bench = ReconcileBench()
    bench.kube.objects.pop(("EnginePool", *KEY))
    bench.kube.refuse = lambda *_: KubeError(404, 'namespaces "default" not found')
    assert await bench.look() is None


async def test_lost_gain_brings_engines_and_says_so() -> None:
    bench = ReconcileBench(scaling={"min": 1, "max": 3, "scaleUpDelay": "30s"})
    await bench.look()
    bench.engines_are(1)
    for requests in (0, 100, 200, 300):
        bench.report(requests=requests, lost=requests * 0.1)
        assert await bench.look() == 15.0
        bench.now_s += 15
    assert bench.deployment["spec"]["replicas"] == 2
    assert bench.condition("ScalingActive") == ("True", "ScaledUp")
    notes = [event["note"] for event in bench.kube.events if event["action"] == "ScalingActive"]
    assert notes[-1] == "1 -> 2: 10.0% of the gain is lost for want of capacity"


async def lose(bench: ReconcileBench) -> None:
    """45 seconds in which a tenth of the gain is lost, one look short of another engine."""
    bench.edit(scaling={"min": 1, "max": 3, "scaleUpDelay": "30s"})
    await bench.look()
    bench.engines_are(1)
    for requests in (0, 100, 200):
        bench.report(requests=requests, lost=requests * 0.1)
        await bench.look()
        bench.now_s += 15
    bench.report(requests=300, lost=30)


async def test_losses_from_before_the_last_change_bring_no_further_engine() -> None:
    bench = ReconcileBench()
    await lose(bench)
    await bench.look()
    bench.engines_are(2)
    for requests in (400, 500, 600, 700):
        bench.now_s += 15
        bench.report(requests=requests, lost=30)
        await bench.look()
    assert bench.deployment["spec"]["replicas"] == 2


async def test_engine_that_the_api_server_refused_for_the_moment_comes_with_the_next_look() -> None:
    bench = ReconcileBench()
    await lose(bench)
    bench.kube.refuse = lambda *_: KubeError(503, "later")
    with pytest.raises(Retry):
        await bench.look()
    bench.kube.refuse = lambda *_: None
    bench.now_s += 1
    await bench.look()
    assert bench.deployment["spec"]["replicas"] == 2
    assert bench.condition("ScalingActive") == ("True", "ScaledUp")


async def test_scaled_pool_keeps_its_engines_while_nobody_reports() -> None:
    bench = ReconcileBench(scaling={"min": 1, "max": 3})
    await bench.look()
    bench.store.put("Deployment", bench.kube.put({**bench.deployment, "spec": {"replicas": 3}}))
    bench.now_s += 3600
    await bench.look()
    assert bench.deployment["spec"]["replicas"] == 3
    assert bench.condition("ScalingActive") == ("False", "NoReport")


async def test_new_leader_knows_since_when_engines_are_missing() -> None:
    spec = {"scaling": {"min": 1, "max": 8, "scaleDownDelay": "10s"}, "engine": {"startLimit": "10s"}}
    old = ReconcileBench(**spec)
    await old.look()
    old.engines_are(1)
    old.store.put("Deployment", old.kube.put({**old.deployment, "spec": {**old.deployment["spec"], "replicas": 3}}))
    old.report(requests=0, lost=0)
    await old.look()
    assert old.condition("Complete") == ("False", "SomeEnginesMissing")
    new = ReconcileBench(**spec)
    new.kube.objects = old.kube.objects
    for kind, name in (("EnginePool", KEY), ("Deployment", ("default", "engine-tiny"))):
        new.store.put(kind, new.kube.objects[kind, *name])
    new.accepted.judge()
    new.now_s = old.now_s + 615
    new.report(requests=0, lost=0)
    await new.look()
    assert new.condition("ScalingActive") == ("False", "SomeEnginesMissing")
    new.now_s += 15
    new.report(requests=0, lost=0)
    await new.look()
    assert new.deployment["spec"]["replicas"] == 2


async def test_new_leader_that_sees_the_pool_before_its_deployment_keeps_the_engines() -> None:
    bench = ReconcileBench(scaling={"min": 1, "max": 8})
    await bench.look()
    bench.kube.put({**bench.deployment, "spec": {**bench.deployment["spec"], "replicas": 8}})
    bench.store.remove("Deployment", ("default", "engine-tiny"))
    await bench.look()
    assert bench.deployment["spec"]["replicas"] == 8


async def test_new_leader_that_cannot_read_a_deployment_leaves_it_and_says_so_if_it_lasts() -> None:
    bench = ReconcileBench(scaling={"min": 1, "max": 8})
    await bench.look()
    bench.kube.put({**bench.deployment, "spec": {**bench.deployment["spec"], "replicas": 8}})
    for _ in range(2):
        # In a row only.
        bench.store.remove("Deployment", ("default", "engine-tiny"))
        bench.kube.unreadable = {"Deployment": KubeError(500, "no quorum")}
        await bench.failing_looks(FAILURES_TOLD - 1)
        bench.kube.unreadable = {}
        await bench.look()
    assert bench.told("StatusNotWritten") == []
    before = bench.kube.objects["EnginePool", "default", "tiny"]["status"]
    bench.store.remove("Deployment", ("default", "engine-tiny"))
    bench.kube.unreadable = {"Deployment": KubeError(500, "no quorum")}
    await bench.failing_looks(FAILURES_TOLD)
    assert bench.told("StatusNotWritten") == ["no quorum"]
    assert bench.deployment["spec"]["replicas"] == 8
    assert bench.kube.objects["EnginePool", "default", "tiny"]["status"] == before


async def test_status_that_needs_no_writing_any_more_has_not_failed() -> None:
    bench = ReconcileBench()
    await bench.look()
    refused = KubeError(500, "no quorum")
    for _ in range(2):
        # In a row only.
        bench.engines_are(1)
        bench.kube.refuse = lambda _, body: refused if body["kind"] == "EnginePool" else None
        await bench.failing_looks(FAILURES_TOLD - 1)
        bench.engines_are(0)
        assert await bench.quiet_look() == []
    assert bench.told("StatusNotWritten") == []


async def test_figures_are_written_once_a_minute_and_conditions_at_once() -> None:
    bench = ReconcileBench()
    await bench.look()
    bench.report(requests=0, lost=0)
    bench.now_s += 60
    await bench.look()
    bench.report(requests=10, lost=1)
    bench.now_s += 10
    assert await bench.quiet_look() == []
    bench.now_s += 60
    assert await bench.quiet_look() == ["apply EnginePool tiny status"]
    gain = bench.kube.objects["EnginePool", *KEY]["status"]["gain"]
    assert (gain["requests"], gain["ratio"]) == (10, "90.0%")
    bench.report(requests=20, lost=1)
    bench.engines_are(1)
    assert await bench.quiet_look() == ["apply EnginePool tiny status"]


async def test_events_are_no_flood() -> None:
    bench = ReconcileBench()
    await bench.look()
    for _ in range(50):
        for ready in (1, 0):
            bench.engines_are(ready)
            await bench.look()
            bench.now_s += 1
    assert len(bench.kube.events) <= 8


async def test_reply_does_not_undo_what_the_watch_has_shown_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ReconcileBench()
    apply = bench.kube.apply

    async def answered_late(made: dict[str, Any], **how: Any) -> dict[str, Any]:
        reply = await apply(made, **how)
        if made["kind"] == "Deployment":
            bench.store.put("Deployment", bench.kube.put({**reply, "status": {"readyReplicas": 1}}))
        elif made["kind"] == "EnginePool":
            bench.store.remove("EnginePool", KEY)
        return reply

    monkeypatch.setattr(bench.kube, "apply", answered_late)
    await bench.look()
    deployment = bench.store.get("Deployment", ("default", "engine-tiny"))
    assert deployment is not None
    assert deployment["status"] == {"readyReplicas": 1}
    assert bench.store.get("EnginePool", KEY) is None


@pytest.mark.parametrize("pool", [{}, {"scaling": {"min": 1, "max": 8}}])
async def test_answer_does_not_undo_what_the_watch_has_shown_meanwhile(
    monkeypatch: pytest.MonkeyPatch, pool: dict[str, Any]
) -> None:
    bench = ReconcileBench(**pool)
    await bench.look()
    bench.store.remove("Deployment", ("default", "engine-tiny"))
    get = bench.kube.get

    async def answered_late(kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        there = await get(kind, namespace, name)
        bench.engines_are(1)
        return there

    monkeypatch.setattr(bench.kube, "get", answered_late)
    await bench.look()
    assert bench.store.get("Deployment", ("default", "engine-tiny")) == bench.deployment
    assert bench.condition("Ready") == ("True", "EnginesReady")
