"""The values of the chart, their schema and their table say the same."""

import json

import yaml

import generate_docs
from chart_values_table import CHART, described, leaves, values_markdown

TEXT = (CHART / "values.yaml").read_text()


def test_comment_belongs_to_the_key_below_it() -> None:
    text = "a:\n  # -- What b is\n  # in two lines.\n  b: 1\n  c: 2\n# another remark\nd: 3\n"
    assert described(text) == {"a.b": "What b is in two lines."}


def test_every_value_is_described() -> None:
    comments = described(TEXT)
    assert [path for path, _ in leaves(yaml.safe_load(TEXT), comments) if path not in comments] == []


def test_every_value_of_the_schema_has_a_default() -> None:
    def paths(schema: dict[str, dict[str, object]], above: str = "") -> set[str]:
        found = set()
        for key, below in schema.get("properties", {}).items():
            assert isinstance(below, dict)
            deeper = paths(below, f"{above}{key}.")
            found |= deeper or {f"{above}{key}"}
        return found

    def has(path: str) -> bool:
        value = yaml.safe_load(TEXT)
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return False
            value = value[key]
        return True

    schema = json.loads((CHART / "values.schema.json").read_text())
    # Helm's own, and parts of Kubernetes' types that users may add.
    extra = {"global", "proserve-crds"} | {f"{part}.resources.claims" for part in ("operator", "gateway")}
    missing = {path for path in paths(schema) - extra if not has(path)}
    assert missing == set()


def test_table_has_types_and_defaults() -> None:
    assert "| `gateway.service.httpPort` | integer | `80` | Port of the OpenAI HTTP API. |" in values_markdown()


def test_readme_of_the_chart_is_current() -> None:
    readme = (CHART / "README.md").read_text()
    assert generate_docs.current(readme) == readme
