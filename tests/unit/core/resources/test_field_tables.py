"""docs/resources.md says what the code does."""

import re
from pathlib import Path

import pytest

from proserve_core.resources import CUSTOM_KINDS, ResourceErrors, parse_resources
from proserve_core.resources.field_tables import reference_markdown
from proserve_core.resources.fields import Field, ListOf, Object

PAGE = (Path(__file__).parents[4] / "docs" / "resources.md").read_text()


def all_fields() -> list[tuple[str, Field]]:
    found: list[tuple[str, Field]] = []

    def walk(fields: tuple[Field, ...], path: str) -> None:
        for field in fields:
            found.append((f"{path}{field.name}", field))
            inner = field.type.items if isinstance(field.type, ListOf) else field.type
            if isinstance(inner, Object):
                walk(inner.fields, f"{path}{field.name}{'[]' if isinstance(field.type, ListOf) else ''}.")

    for kind in CUSTOM_KINDS:
        walk(kind.fields, "")
    return found


def test_generated_part_of_the_page_is_current() -> None:
    generated = re.search(r"<!-- begin generated: resources [^\n]*\n\n(.*?)\n<!-- end generated -->", PAGE, re.DOTALL)
    assert generated is not None
    assert generated[1] == reference_markdown(), "run: make docs"


def test_every_field_is_described_and_in_the_tables() -> None:
    table = reference_markdown()
    for path, field in all_fields():
        assert f"| `{path}` |" in table
        assert field.description.endswith("."), path


def test_example_of_the_page_is_accepted() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    resources = parse_resources({"docs": example}, require_pools=True, require_tenants=True)
    assert [item.name for item in resources.priority_classes] == ["interactive", "batch"]


def test_errors_on_the_page_are_the_real_ones() -> None:
    text = """
apiVersion: proserve.dev/v1alpha1
kind: PriorityClass
metadata: {name: interactive}
spec: {wieght: 4, objectives: {timeToFirstToken: 500, timePerOutputToken: 40ms}}
---
apiVersion: proserve.dev/v1alpha1
kind: Tenant
metadata: {name: product}
spec: {priorityClassName: interactiv, anonymous: true}
"""
    with pytest.raises(ResourceErrors) as refused:
        parse_resources({"site.yaml": text})
    assert f"```\n{refused.value}\n```" in PAGE
