"""The conditions of a pool from what is known of it."""

from typing import Any

import pytest

from proserve_core.resources.conditions import CONDITIONS, Reason
from proserve_core.resources.errors import ResourceError
from proserve_operator.conditions import Condition, shortened, written
from proserve_operator.pool_status import Observed, Refusal, conditions, counts
from resource_builders import endpoint_pool, engine_pool, parse

(POOL,) = parse(engine_pool()).engine_pools


QUOTA = 'pods "engine-tiny-x" is forbidden: exceeded quota: none'


def deployment(
    *, ready: int, updated: int, observed: int = 1, stuck: bool = False, refused: bool = False
) -> dict[str, Any]:
    status: dict[str, Any] = {
        "replicas": 2, "readyReplicas": ready, "updatedReplicas": updated, "observedGeneration": observed,
    }  # fmt: skip
    conditions = status["conditions"] = []
    if stuck:
        conditions.append({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"})
    if refused:
        conditions.append({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA})
    return {"metadata": {"generation": 1}, "status": status}


def ready(observed: Observed) -> tuple[str, Reason]:
    (found,) = (each for each in conditions(observed) if each.type == "Ready")
    return found.status_text, found.reason


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (deployment(ready=0, updated=2), ("False", Reason.ENGINES_STARTING)),
        (deployment(ready=1, updated=2), ("True", Reason.SOME_ENGINES_MISSING)),
        (deployment(ready=2, updated=2), ("True", Reason.ENGINES_READY)),
        # Old pods that are ready don't make a rollout done, nor do counts of the generation before.
        (deployment(ready=2, updated=1), ("True", Reason.SOME_ENGINES_MISSING)),
        (deployment(ready=2, updated=2, observed=0), ("True", Reason.SOME_ENGINES_MISSING)),
        (deployment(ready=2, updated=1, stuck=True), ("True", Reason.ROLLOUT_STUCK)),
        (deployment(ready=0, updated=1, stuck=True), ("False", Reason.ROLLOUT_STUCK)),
        (deployment(ready=0, updated=0, refused=True), ("False", Reason.PODS_REFUSED)),
        (deployment(ready=1, updated=0, refused=True), ("True", Reason.PODS_REFUSED)),
        # That pods are refused is why a rollout is stuck.
        (deployment(ready=2, updated=0, refused=True, stuck=True), ("True", Reason.PODS_REFUSED)),
        (None, ("False", Reason.ENGINES_STARTING)),
    ],
)
def test_ready_follows_the_deployment(state: dict[str, Any] | None, expected: tuple[str, Reason]) -> None:
    assert ready(Observed(pool=POOL, desired=2, deployment=state)) == expected


def test_refused_pods_are_told_in_the_words_of_the_api_server() -> None:
    observed = Observed(pool=POOL, desired=2, deployment=deployment(ready=0, updated=0, refused=True))
    assert conditions(observed)[1].message == f"0 of 2 engines are ready; {QUOTA}"


def test_other_states_of_a_pool() -> None:
    (outside,) = parse(endpoint_pool()).engine_pools
    assert ready(Observed(pool=outside)) == ("Unknown", Reason.EXTERNAL_ENGINES)
    assert ready(Observed(pool=POOL, desired=0)) == ("False", Reason.NO_ENGINES)
    assert ready(Observed(pool=None)) == ("False", Reason.INVALID)


def test_engines_that_are_there_serve_on_whatever_is_refused() -> None:
    refusal = Refusal(reason=Reason.APPLY_REFUSED, message="no")
    assert ready(Observed(pool=POOL, desired=2, refusal=refusal)) == ("False", Reason.APPLY_REFUSED)
    observed = Observed(pool=POOL, desired=2, refusal=refusal, deployment=deployment(ready=1, updated=2))
    assert ready(observed) == ("True", Reason.APPLY_REFUSED)
    assert conditions(observed)[1].message == "1 of 2 engines are ready; no"


def test_accepted_says_everything_that_is_wrong() -> None:
    wrong = ResourceError(source="s", path="spec.weight", problem="got 0", fix="write 1")
    lost = ResourceError(source="s", path="spec.x", problem="there is no PriorityClass 'y'", fix="declare it")
    for problems, reason in (((wrong, lost), Reason.INVALID), ((lost,), Reason.UNRESOLVED_REFERENCE)):
        accepted = conditions(Observed(pool=POOL, problems=problems))[0]
        assert (accepted.status, accepted.reason) == (False, reason)
        assert all(problem.problem in accepted.message and problem.fix in accepted.message for problem in problems)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (Observed(pool=POOL, desired=2, deployment=deployment(ready=2, updated=0)), "True"),
        (Observed(pool=POOL, desired=2, deployment=deployment(ready=1, updated=2)), "False"),
        (Observed(pool=POOL, desired=2), "False"),
        (Observed(pool=POOL, desired=0), "True"),
        (Observed(pool=None), "Unknown"),
    ],
)
def test_pool_is_complete_when_as_many_engines_are_ready_as_there_should_be(observed: Observed, expected: str) -> None:
    (complete,) = (each for each in conditions(observed) if each.type == "Complete")
    assert complete.status_text == expected


def test_every_reason_that_is_given_is_documented() -> None:
    documented = {(each.name, reason) for each in CONDITIONS["EnginePool"] for reason in each.reasons}
    for observed in (Observed(pool=POOL, desired=2), Observed(pool=None), Observed(pool=POOL)):
        assert {(each.type, each.reason) for each in conditions(observed)} <= documented


def test_counts_are_what_autoscalers_read() -> None:
    fields = counts(Observed(pool=POOL, desired=3, deployment=deployment(ready=1, updated=2)))
    assert (fields["replicas"], fields["readyReplicas"], fields["engines"]) == (2, 1, "1/3")
    assert fields["selector"] == "app.kubernetes.io/name=proserve-engine,proserve.dev/pool=tiny"


def test_time_of_a_condition_is_that_of_its_last_change() -> None:
    one = Condition(type="Ready", status=True, reason=Reason.ENGINES_READY, message="m")
    first = {"conditions": written([one], previous={}, generation=1, now="T1")}
    same = {"conditions": written([one], previous=first, generation=2, now="T2")}
    assert same["conditions"][0]["lastTransitionTime"] == "T1"
    assert same["conditions"][0]["observedGeneration"] == 2
    other = Condition(type="Ready", status=False, reason=Reason.NO_ENGINES, message="m")
    assert written([other], previous=same, generation=2, now="T3")[0]["lastTransitionTime"] == "T3"


def test_messages_fit_into_a_status() -> None:
    assert len(shortened("x" * 5000)) == 1024
    assert shortened("short") == "short"
