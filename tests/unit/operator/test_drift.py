"""When an object must be applied again."""

import copy
from typing import Any

import pytest

from proserve_operator.drift import differs
from proserve_operator.names import HASH_ANNOTATION

DESIRED: dict[str, Any] = {
    "metadata": {"name": "x", "labels": {"a": "1"}, "annotations": {HASH_ANNOTATION: "h"}},
    "spec": {"replicas": 2, "containers": [{"name": "engine", "resources": {"limits": {"cpu": "1000m"}}}]},
}


def actual() -> dict[str, Any]:
    """As the API server gives it back: with defaults, others' fields and its own forms."""
    made = copy.deepcopy(DESIRED)
    made["metadata"] |= {"uid": "u", "resourceVersion": "5"}
    made["metadata"]["labels"]["theirs"] = "2"
    made["spec"]["paused"] = False
    made["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1"
    made["spec"]["containers"].insert(0, {"name": "injected"})
    return made


def test_defaults_fields_of_others_and_other_forms_are_no_difference() -> None:
    assert not differs(DESIRED, actual())


def test_field_of_ours_that_was_changed_is() -> None:
    changed = actual()
    changed["spec"]["replicas"] = 5
    assert differs(DESIRED, changed)
    removed = actual()
    del removed["metadata"]["labels"]["a"]
    assert differs(DESIRED, removed)


def test_something_else_asked_for_is_even_if_all_is_there() -> None:
    before = actual()
    before["metadata"]["annotations"][HASH_ANNOTATION] = "with a field that is to go"
    assert differs(DESIRED, before)


def marked(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"annotations": {HASH_ANNOTATION: "h"}}, "spec": spec}


RULE: dict[str, Any] = {
    "from": [{"podSelector": {"matchLabels": {"a": "1"}}}],
    "ports": [{"port": 8000, "protocol": "TCP"}],
}


@pytest.mark.parametrize(
    ("desired", "found"),
    [
        (marked(ingress=[RULE]), marked(ingress=[RULE, {}])),
        (marked(ingress=[RULE]), marked(ingress=[{**RULE, "from": [*RULE["from"], {"podSelector": {}}]}])),
        (
            marked(ingress=[RULE]),
            marked(ingress=[{**RULE, "from": [{**RULE["from"][0], "namespaceSelector": {}}]}]),
        ),
        (marked(command=["serve", "model"]), marked(command=["serve", "model", "--more"])),
        (marked(command=["a", "b"]), marked(command=["b", "a"])),
        (marked(command=[]), marked(command=["sh"])),
        (marked(policyTypes=["Ingress"]), marked(policyTypes=["Ingress", "Egress"])),
        (marked(automountServiceAccountToken=False), marked()),
        (marked(replicas=1), marked()),
    ],
)
def test_what_was_added_to_or_taken_from_what_must_be_as_it_is(desired: dict[str, Any], found: dict[str, Any]) -> None:
    assert differs(desired, found)


@pytest.mark.parametrize("zero", ["", False, 0, [], {}])
def test_zero_values_that_the_api_server_leaves_out_are_no_difference(zero: Any) -> None:
    assert not differs(marked(field=zero), marked())
