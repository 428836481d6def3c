"""When an object must be applied again."""

import copy
from typing import Any

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
