"""The CustomResourceDefinitions say what the field descriptions say; tests/apiserver: what they accept."""

from collections.abc import Iterator
from typing import Any

import pytest

import generate_crds
from proserve_core.resources.conditions import CONDITIONS
from proserve_core.resources.crds import definitions

SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for crd in definitions().values()
}


def properties(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All fields below a schema."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from properties(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from properties(schema[inner], f"{path}[]")


def test_files_in_the_chart_are_current() -> None:
    assert generate_crds.main(["--check"]) == 0, "run: make docs"


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_field_has_a_description(kind: str) -> None:
    fields = dict(properties(SCHEMAS[kind]))
    assert len(fields) > 10
    assert [path for path, field in fields.items() if not field.get("description") and path != ".metadata"] == []


@pytest.mark.parametrize("kind", SCHEMAS)
def test_texts_lists_and_maps_have_limits_so_that_rules_have_a_price(kind: str) -> None:
    for path, field in properties(SCHEMAS[kind]["properties"]["spec"]):
        if field.get("type") == "string" and "enum" not in field:
            assert "maxLength" in field, path
        if field.get("type") == "array":
            assert "maxItems" in field, path
        if "additionalProperties" in field:
            assert "maxProperties" in field, path


@pytest.mark.parametrize("kind", SCHEMAS)
def test_conditions_allow_the_documented_types_and_reasons_only(kind: str) -> None:
    condition = SCHEMAS[kind]["properties"]["status"]["properties"]["conditions"]["items"]["properties"]
    assert condition["type"]["enum"] == [each.name for each in CONDITIONS[kind]]
    assert set(condition["reason"]["enum"]) == {str(reason) for each in CONDITIONS[kind] for reason in each.reasons}


def test_autoscalers_find_replicas_and_pods() -> None:
    version = definitions()["enginepools.yaml"]["spec"]["versions"][0]
    assert version["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    status = SCHEMAS["EnginePool"]["properties"]["status"]["properties"]
    assert {"replicas", "selector"} <= set(status)


def test_resources_outlive_the_chart() -> None:
    for crd in definitions().values():
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert crd["spec"]["names"]["categories"] == ["proserve"]
