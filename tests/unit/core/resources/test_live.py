"""What of a cluster's resources is in force while they change one by one."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.resources.live import DocumentKey, Settled, settle
from resource_builders import Data, endpoint_pool, engine_pool, keyed_tenant, priority_class, secret, tenant


def keyed(*documents: Data) -> dict[DocumentKey, Data]:
    return {
        DocumentKey(
            each["kind"],
            "" if each["kind"] == "PriorityClass" else each["metadata"].get("namespace", "default"),
            each["metadata"]["name"],
        ): each
        for each in documents
    }


def within(namespace: str, made: Data, *, created: str | None = None) -> Data:
    """The document in a namespace, as the API server shows it."""
    stamp = {} if created is None else {"creationTimestamp": created}
    return {**made, "metadata": {**made["metadata"], "namespace": namespace, **stamp}}


def settled(*documents: Data, after: Settled | None = None) -> Settled:
    return settle(keyed(*documents), {} if after is None else after.in_force)


def names(items: Any) -> list[str]:
    return [item.name for item in items]


GOOD = (priority_class("high"), keyed_tenant("alice"), secret(alice="sk-a"), engine_pool())


def test_documents_that_are_right_are_all_in_force() -> None:
    result = settled(*GOOD)
    assert result.problems == {}
    assert names(result.resources.tenants) == ["alice"]
    assert names(result.resources.engine_pools) == ["tiny"]


def test_document_that_never_was_right_is_left_out_and_the_others_stay() -> None:
    result = settled(*GOOD, keyed_tenant("bob", key="bob"), engine_pool("other", model={"name": "x"}))
    assert names(result.resources.tenants) == ["alice"]
    assert names(result.resources.engine_pools) == ["tiny"]
    problems = {key.name: errors[0].path for key, errors in result.problems.items()}
    assert problems == {"bob": "spec.apiKeys[0].secretKeyRef.key", "other": "spec.model.uri"}


def test_of_a_document_that_became_wrong_the_last_right_version_stays() -> None:
    before = settled(priority_class("high", weight=4), *GOOD[1:])
    after = settled(priority_class("high", weight=-1), *GOOD[1:], after=before)
    assert [each.weight for each in after.resources.priority_classes] == [4]
    (errors,) = after.problems.values()
    assert errors[0].path == "spec.weight"
    again = settled(priority_class("high", weight=5), *GOOD[1:], after=after)
    assert [each.weight for each in again.resources.priority_classes] == [5]
    assert again.problems == {}


def test_key_whose_secret_is_gone_stops_working_and_the_tenants_other_keys_go_on() -> None:
    both = [{"secretKeyRef": {"name": "keys", "key": name}} for name in ("old", "new")]
    before = settled(GOOD[0], tenant(anonymous=False, apiKeys=both), secret(old="sk-old", new="sk-new"))
    after = settled(GOOD[0], tenant(anonymous=False, apiKeys=both), secret(new="sk-new"), after=before)
    (alice,) = after.resources.tenants
    assert after.resources.api_keys(alice) == ("sk-new",)
    assert [key.name for key in after.problems] == ["alice"]
    nothing = settled(GOOD[0], tenant(anonymous=False, apiKeys=both), after=after)
    assert nothing.resources.tenants == ()
    back = settled(GOOD[0], tenant(anonymous=False, apiKeys=both), secret(old="sk-old", new="sk-new"), after=nothing)
    assert back.resources.api_keys(back.resources.tenants[0]) == ("sk-old", "sk-new")


def test_anonymous_tenant_without_its_keys_stays_anonymous() -> None:
    result = settled(GOOD[0], tenant(apiKeys=[{"secretKeyRef": {"name": "keys", "key": "x"}}]))
    assert [(each.anonymous, each.api_keys) for each in result.resources.tenants] == [(True, ())]


def test_deleted_class_stays_while_it_is_named() -> None:
    degrading = priority_class("low", overload={"action": "Degrade", "className": "lowest"})
    before = settled(GOOD[0], degrading, priority_class("lowest"), tenant(priorityClassName="low"))
    after = settled(GOOD[0], tenant(priorityClassName="low"), after=before)
    assert names(after.resources.priority_classes) == ["high", "low", "lowest"]
    assert after.problems == {}
    unnamed = settled(GOOD[0], tenant(), after=after)
    assert names(unnamed.resources.priority_classes) == ["high"]


def test_of_two_pools_of_one_model_the_first_serves_it() -> None:
    result = settled(*GOOD, engine_pool("zweite"))
    assert names(result.resources.engine_pools) == ["tiny"]
    assert [key.name for key in result.problems] == ["zweite"]


NEWCOMERS = {
    "model": (within("prod", engine_pool("llm")), within("dev", engine_pool("llm"))),
    "anonymous": (within("prod", tenant("web")), within("dev", tenant("web"))),
}


@pytest.mark.parametrize(("incumbent", "newcomer"), NEWCOMERS.values(), ids=NEWCOMERS)
def test_newcomer_does_not_take_what_another_has(incumbent: Data, newcomer: Data) -> None:
    before = settled(GOOD[0], incumbent)
    after = settled(GOOD[0], incumbent, newcomer, after=before)
    assert after.resources == before.resources
    assert [key.namespace for key in after.problems] == ["dev"]


@pytest.mark.parametrize(
    "former",
    [keyed_tenant("web"), keyed_tenant("web", anonymous=False), tenant("web", anonymous=False, apiKeys=[])],
    ids=["with another key", "with another key, not anonymous", "without keys"],
)
def test_key_stays_with_the_tenant_that_has_it(former: Data) -> None:
    prod = (within("prod", keyed_tenant("web")), within("prod", secret(web="sk-prod")))
    before = settled(GOOD[0], *prod, within("dev", former), within("dev", secret(web="sk-dev")))
    copied = (within("dev", keyed_tenant("web")), within("dev", secret(web="sk-prod")))
    after = settled(GOOD[0], *prod, *copied, after=before)
    assert [(each.namespace, after.resources.api_keys(each)) for each in after.resources.tenants][-1:] == [
        ("prod", ("sk-prod",))
    ]
    assert {key.namespace for key in after.problems} == {"dev"}


def test_headroom_that_is_promised_stays() -> None:
    before = settled(priority_class("z", headroom={"percent": 60}))
    wanting = priority_class("a", headroom={"percent": 50})
    after = settled(priority_class("z", headroom={"percent": 55}), wanting, after=before)
    assert names(after.resources.priority_classes) == ["z"]
    assert [each.headroom.percent for each in after.resources.priority_classes if each.headroom] == [55]
    assert [key.name for key in after.problems] == ["a"]


def test_pool_may_change_while_another_waits_for_its_model() -> None:
    prod = within("prod", engine_pool("llm", replicas=2), created="2026-02-01T00:00:00Z")
    older = within("dev", engine_pool("llm", model={"name": "a", "uri": "generated://tiny"}))
    waiting = within("dev", engine_pool("llm"), created="2026-01-01T00:00:00Z")
    before = settled(prod, waiting, after=settled(prod, older))
    more = within("prod", engine_pool("llm", replicas=3), created="2026-02-01T00:00:00Z")
    after = settled(more, waiting, after=before)
    assert [(each.namespace, each.replicas) for each in after.resources.engine_pools] == [("dev", 1), ("prod", 3)]
    assert [key.namespace for key in after.problems] == ["dev"]


@pytest.mark.parametrize("share", ["0.5", "0.9"])
def test_share_of_simulations_stops_nobody_in_a_cluster(share: str) -> None:
    """Classes come one by one there, so what all of them have in common is never complete."""
    before = settled(*GOOD)
    after = settled(*GOOD, priority_class("sampled", share=share), priority_class("other", share="0.9"), after=before)
    assert names(after.resources.priority_classes) == ["high", "other", "sampled"]
    assert after.problems == {}


EDITS_THAT_CONTRADICT_OTHERS = {
    "target of a degradation gets heavier": (
        priority_class("low", overload={"action": "Degrade", "className": "shared"}),
        priority_class("shared"),
        priority_class("shared", weight=9),
    ),
    "highest class of a tenant gets lighter": (
        tenant("bob", maxPriorityClassName="shared"),
        priority_class("shared", weight=3),
        priority_class("shared", weight=1),
    ),
    "own class of a tenant gets heavier than its highest": (
        tenant("bob", priorityClassName="shared", maxPriorityClassName="high"),
        priority_class("shared", weight=2),
        priority_class("shared", weight=5),
    ),
    "circle of degradation is closed": (
        priority_class("low", overload={"action": "Degrade", "className": "shared"}),
        priority_class("shared"),
        priority_class("shared", overload={"action": "Degrade", "className": "low"}),
    ),
}


@pytest.mark.parametrize(
    ("other", "was", "edited"), EDITS_THAT_CONTRADICT_OTHERS.values(), ids=EDITS_THAT_CONTRADICT_OTHERS
)
def test_edit_that_would_make_another_resource_wrong_is_the_one_that_is_refused(
    other: Data, was: Data, edited: Data
) -> None:
    heavy = priority_class("high", weight=2)
    before = settled(heavy, other, was)
    assert before.problems == {}
    other_later = {**copy.deepcopy(other), "status": {"observedGeneration": 1}}
    after = settled(heavy, other_later, edited, after=before)
    assert after.resources == before.resources
    ((key, (error, *_)),) = after.problems.items()
    assert key.name == "shared"
    assert other["metadata"]["name"] in str(error)
    corrected = settled(heavy, other, was, after=after)
    assert corrected.problems == {}


def test_of_two_edits_that_contradict_each_other_only_one_is_refused() -> None:
    degrades = {"action": "Degrade", "className": "low"}
    before = settled(priority_class("high", weight=4, overload=degrades), priority_class("low", weight=1))
    after = settled(priority_class("high", weight=2, overload=degrades), priority_class("low", weight=3), after=before)
    assert {item.name: item.weight for item in after.resources.priority_classes} == {"high": 4, "low": 3}
    assert [key.name for key in after.problems] == ["high"]


def test_without_a_last_good_version_the_older_object_comes_first() -> None:
    older = within("prod", engine_pool("llm"), created="2026-01-01T00:00:00Z")
    younger = within("dev", engine_pool("llm"), created="2026-01-02T00:00:00Z")
    result = settled(older, younger)
    assert [each.namespace for each in result.resources.engine_pools] == ["prod"]
    assert [key.namespace for key in result.problems] == ["dev"]


def test_tenant_may_name_a_model_that_nobody_serves_yet() -> None:
    result = settled(GOOD[0], tenant(models=["later"]), engine_pool())
    assert result.resources.tenants[0].models == ("later",)
    assert result.problems == {}


CHANGES = st.lists(
    st.sampled_from([
        priority_class("high", weight=2), priority_class("high", weight=0),
        priority_class("low", headroom={"percent": 60}), priority_class("high", headroom={"percent": 60}),
        priority_class("low", weight=2, share="0.7"), priority_class("high", share="0.5"),
        priority_class("low", overload={"action": "Degrade", "className": "high"}),
        priority_class("high", overload={"action": "Degrade", "className": "low"}),
        tenant("carol", maxPriorityClassName="low"),
        keyed_tenant("alice"), keyed_tenant("bob", key="alice"),
        tenant("bob", priorityClassName="gone"), secret(alice="sk-a"), secret(alice=""), engine_pool(),
        engine_pool("second"), engine_pool("second", replicas=-1), endpoint_pool(),
    ]),
    max_size=8,
)  # fmt: skip


@given(first=CHANGES, second=CHANGES)
def test_whatever_changes_the_rest_stays_consistent(first: list[Data], second: list[Data]) -> None:
    before = settle(keyed(*first), {})
    after = settle(keyed(*second), before.in_force)
    assert set(after.problems) <= set(keyed(*second))
    # What is in force makes sense by itself, and taking it again changes nothing.
    assert settle(after.in_force, {}).resources == after.resources
    assert settle(after.in_force, {}).problems == {}


CLASSES = st.builds(
    lambda name, weight, target, share: priority_class(
        name, weight=weight, share=share, overload=target and {"action": "Degrade", "className": target}
    ),
    name=st.sampled_from("abc"),
    weight=st.integers(1, 3),
    target=st.sampled_from(["a", "b", "c", None]),
    share=st.sampled_from(["0.5", None]),
)


@given(first=st.lists(CLASSES, max_size=6), edited=CLASSES)
def test_edit_never_changes_what_of_others_is_in_force(first: list[Data], edited: Data) -> None:
    before = settle(keyed(*first), {})
    ours = keyed(edited)
    after = settle({**before.in_force, **ours}, before.in_force)
    for key in before.in_force.keys() - ours.keys():
        assert after.in_force[key] == before.in_force[key]
        assert key not in after.problems
