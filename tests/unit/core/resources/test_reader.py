"""Types, ranges, unknown and missing fields: what holds for every document."""

from typing import Any

import pytest

from proserve_core.resources import ResourceErrors
from resource_builders import document, engine_pool, errors_of, parse, priority_class, secret, tenant


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), ("1m30s", 90.0), ("1500us", 0.0015), ("1ms", 0.001)],
)
def test_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    resources = parse(priority_class(objectives={"timeToFirstToken": text, "timePerOutputToken": "1s"}))
    assert resources.priority_classes[0].objectives.ttft_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (500, "500 has no unit; add one, such as '500ms' or '500s'"),
        (0.5, "0.5 has no unit; add one, such as '0.5ms' or '0.5s'"),
        ("500", "'500' is not a duration; add a unit: '500ms' or '500s'"),
        ("-1s", "'-1s' is not a duration"),
        ("1 s", "'1 s' is not a duration"),
        ("1d", "'1d' is not a duration"),
        ("", "'' is not a duration"),
        ("1s\n", "'1s\\n' is not a duration"),
        ("0s", "got '0s'; expected a duration from 1ms to 24h"),
        ("25h", "got '25h'; expected a duration from 1ms to 24h"),
        ("9" * 30 + "h", "expected a duration from 1ms to 24h"),
        ("9" * 400 + "h", "is not a duration"),
        (None, "is empty (null); give it a value or remove it"),
        (True, "got true; expected a duration"),
        ([], "got a list; expected a duration"),
    ],
)
def test_unusable_duration_says_what_to_write(value: object, says: str) -> None:
    (error,) = errors_of(priority_class(objectives={"timeToFirstToken": value, "timePerOutputToken": "1s"}))
    assert error.startswith("test#1 (PriorityClass high): spec.objectives.timeToFirstToken: ")
    assert says in error


@pytest.mark.parametrize("value", [0, -1, 1_000_001, 10**100, 1.0, "4", True, [1], {}])
def test_weight_is_a_whole_number_in_range(value: object) -> None:
    (error,) = errors_of(priority_class(weight=value))
    assert "spec.weight: got " in error
    assert "expected a whole number" in error


@pytest.mark.parametrize("name", ["High", "a_b", "-a", "a-", "", "a..b", "a" * 254, "é", "a\n"])
def test_class_name_is_a_kubernetes_name(name: str) -> None:
    assert any("metadata.name: " in error for error in errors_of(priority_class(name)))


@pytest.mark.parametrize("name", [5, None, True, ["a"]])
def test_name_of_another_type_is_refused(name: object) -> None:
    data = priority_class()
    data["metadata"]["name"] = name
    (error,) = errors_of(data)
    assert error.startswith("test#1 (PriorityClass): metadata.name: ")


def test_unknown_field_gets_the_closest_name() -> None:
    assert errors_of(priority_class(wieght=2)) == [
        "test#1 (PriorityClass high): spec.wieght: unknown field; did you mean 'weight'?"
    ]
    (error,) = errors_of(priority_class(), tenant(max_priority_class_name="high"))
    assert error.endswith("did you mean 'maxPriorityClassName'?")


def test_misplaced_field_is_told_where_it_belongs() -> None:
    (error,) = errors_of(priority_class(timeToFirstToken="1s"))
    assert error.endswith("unknown field; it belongs in spec.objectives.timeToFirstToken")


def test_unknown_field_unlike_any_other_gets_all_names() -> None:
    (error,) = errors_of(engine_pool(xyz=1))
    assert error.endswith(
        "known here: drain, endpoints, engine, model, pod, replicas, resources, rollout, routing, scaling"
    )


def test_missing_fields_are_listed_with_what_they_are_for() -> None:
    errors = errors_of(document("PriorityClass", "high", spec={"objectives": {"timePerOutputToken": "1s"}}))
    assert [error.split(": ")[1] for error in errors] == ["spec.weight", "spec.objectives.timeToFirstToken"]
    assert "is missing; add it: The first token is due" in errors[1]


def test_document_without_spec_is_refused() -> None:
    (error,) = errors_of(document("PriorityClass", "high"))
    assert "spec: is missing" in error


@pytest.mark.parametrize("spec", [None, 5, "x", [], [{}]])
def test_spec_of_another_type_is_refused(spec: object) -> None:
    for kind in ("PriorityClass", "Tenant", "EnginePool"):
        (error,) = errors_of(document(kind, "a", spec=spec))
        assert ": spec: " in error


def test_every_error_of_every_document_is_listed_at_once() -> None:
    errors = errors_of(
        priority_class("a", weight=0, gain={"firstToken": "x"}, wieght=1),
        tenant(priorityClassName="b", limits={"maxInFlight": 0}),
        engine_pool(replicas=-1, engine={"args": [1], "scheduler": {"policy": "fifo"}}),
    )
    assert len(errors) == 8
    assert [error.split(" ")[0] for error in errors] == ["test#1"] * 3 + ["test#2"] + ["test#3"] * 3 + ["test#2"]


def test_text_of_the_exception_lists_all_errors() -> None:
    with pytest.raises(ResourceErrors) as refused:
        parse(priority_class(weight=0, wieght=1))
    assert str(refused.value) == "2 errors in the resources:\n" + "\n".join(f"  - {e}" for e in refused.value.errors)


def test_keys_that_are_not_strings_are_refused() -> None:
    data: Any = priority_class()
    data[None] = 1
    data["spec"][5] = 1
    data["metadata"]["labels"] = {1: "x"}
    assert len(errors_of(data)) == 3


def test_list_entry_that_is_wrong_keeps_the_indices_of_the_others() -> None:
    (first, second) = errors_of(
        engine_pool(engine={"args": [5, "--port=1"]}),
    )
    assert "spec.engine.args[0]: got 5; expected a string; put it in quotes" in first
    assert "spec.engine.args[1]: '--port=1' is set by ProServe" in second


def test_long_value_is_shortened_and_containers_are_only_named() -> None:
    (error,) = errors_of(engine_pool(routing={"policy": "x" * 5000}))
    assert len(error) < 400
    recursive: list[object] = []
    recursive.append(recursive)
    (error,) = errors_of(tenant(anonymous=recursive), priority_class())
    assert "got a list; expected true or false" in error


def test_objects_as_the_api_server_returns_them_are_accepted() -> None:
    data = priority_class()
    data["metadata"] |= {
        "labels": {"team": "a"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "uid": "0b1",
        "resourceVersion": "12",
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
    }
    assert errors_of(data) == []


def test_unknown_annotation_of_ours_is_refused_and_others_are_not() -> None:
    assert errors_of(document("EnginePool", "a", annotations={"example.com/x": "1"}, spec=engine_pool()["spec"])) == []
    (error,) = errors_of(
        document("EnginePool", "a", annotations={"proserve.dev/calibratoin": "x"}, spec=engine_pool()["spec"])
    )
    assert error.endswith("did you mean 'proserve.dev/calibration'?")


def test_namespace_on_a_class_is_refused() -> None:
    data = priority_class()
    data["metadata"]["namespace"] = "a"
    (error,) = errors_of(data)
    assert "a PriorityClass belongs to the whole cluster; remove the namespace" in error


@pytest.mark.parametrize(
    ("envelope", "says"),
    [
        ({"apiVersion": "scheduling.k8s.io/v1"}, "write apiVersion: proserve.dev/v1alpha1"),
        ({"apiVersion": "proserve.dev/v1"}, "got 'proserve.dev/v1' for a PriorityClass"),
        ({"apiVersion": None}, "got null for a PriorityClass"),
        ({"kind": "Tennant"}, "did you mean 'Tenant'?"),
        ({"kind": "Deployment", "apiVersion": "apps/v1"}, "is none of ours"),
        ({"kind": 5}, "kind: got 5"),
    ],
)
def test_other_kinds_and_versions_are_refused(envelope: dict[str, object], says: str) -> None:
    (error,) = errors_of({**priority_class(), **envelope})
    assert says in error


@pytest.mark.parametrize("data", [5, "text", [], [priority_class()], {}, True])
def test_document_that_is_no_resource_is_refused(data: object) -> None:
    assert len(errors_of(data)) == 1


def test_label_shows_namespace_of_namespaced_kinds() -> None:
    data = secret()
    data["metadata"]["namespace"] = "team-a"
    data["extra"] = 1
    (error,) = errors_of(data)
    assert error.startswith("test#1 (Secret team-a/keys): extra: unknown field")
