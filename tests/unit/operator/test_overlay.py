"""A pool's own pod template over the generated one."""

from typing import Any

import pytest

from proserve_operator.overlay import OverlayError, overlaid


def test_mappings_are_merged() -> None:
    assert overlaid({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


def test_null_removes() -> None:
    assert overlaid({"a": 1, "b": {"c": 1, "d": 2}}, {"a": None, "b": {"c": None}}) == {"b": {"d": 2}}


def test_named_things_are_merged_by_name_and_new_ones_come_last() -> None:
    base = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    overlay = {"env": [{"name": "C", "value": "3"}, {"name": "A", "value": "4"}]}
    assert [(each["name"], each["value"]) for each in overlaid(base, overlay)["env"]] == [
        ("A", "4"),
        ("B", "2"),
        ("C", "3"),
    ]


def test_volume_mounts_are_told_apart_by_path() -> None:
    base = {"volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}
    overlay = {"volumeMounts": [{"name": "cache", "mountPath": "/more", "subPath": "x"}]}
    assert len(overlaid(base, overlay)["volumeMounts"]) == 2


def test_other_lists_are_replaced() -> None:
    assert overlaid({"command": ["a", "b"]}, {"command": ["c"]}) == {"command": ["c"]}
    assert overlaid({"tolerations": [{"key": "a"}]}, {"tolerations": []}) == {"tolerations": []}


def test_neither_is_changed() -> None:
    base, overlay = {"a": {"b": [{"name": "x"}]}}, {"a": {"b": [{"name": "x", "y": 1}]}}
    overlaid(base, overlay)
    assert (base, overlay) == ({"a": {"b": [{"name": "x"}]}}, {"a": {"b": [{"name": "x", "y": 1}]}})


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"metadata": "x"}, "spec.pod.template.metadata: is 'x', must be a mapping"),
        ({"spec": {"containers": "x"}}, "spec.pod.template.spec.containers: is 'x', must be a list"),
        ({"spec": {"containers": [{"name": {"a": 1}}]}}, "spec.pod.template.spec.containers[0].name: is {'a': 1}"),
        ({"spec": {"containers": [{"name": "e", "env": 1}]}}, "spec.pod.template.spec.containers[e].env: is 1"),
    ],
)
def test_overlay_of_another_form_is_refused_by_field(overlay: dict[str, Any], message: str) -> None:
    base = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "e", "env": []}]}}
    with pytest.raises(OverlayError) as refused:
        overlaid(base, overlay, path="spec.pod.template")
    assert str(refused.value).startswith(message)
