"""The table of values in charts/proserve/README.md, from the comments of values.yaml and the types of its schema.

A comment that begins with `# -- ` describes the key below it; a mapping without one is described by its own keys.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "charts" / "proserve"
_KEY = re.compile(r"( *)([\w-]+):")


def described(text: str) -> dict[str, str]:
    """The comment of each key that has one, by the key's path."""
    found: dict[str, str] = {}
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("# "))
        elif key := _KEY.match(line):
            depth = len(key[1]) // 2
            path = [*path[:depth], key[2]]
            if comment:
                found[".".join(path)] = " ".join(comment)
            comment = []
        else:
            comment = []
    return found


def values_markdown() -> str:
    """A row for each described value."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    values, comments = yaml.safe_load(text), described(text)
    rows = ["| Value | Type | Default | Meaning |", "|---|---|---|---|"]
    for path, default in leaves(values, comments):
        shown = json.dumps(default).replace("|", "\\|")
        rows.append(f"| `{path}` | {_type(schema, path)} | `{shown}` | {comments[path]} |")
    return "\n".join(rows)


def leaves(values: Mapping[str, Any], comments: Mapping[str, str], above: str = "") -> Iterator[tuple[str, Any]]:
    """Path and default of each value that is described as a whole."""
    for key, value in values.items():
        path = f"{above}{key}"
        if path in comments or not isinstance(value, dict):
            yield path, value
        else:
            yield from leaves(value, comments, f"{path}.")


def _type(schema: Mapping[str, Any], path: str) -> str:
    found = schema
    for key in path.split("."):
        found = found["properties"][key]
    if "enum" in found:
        return ", ".join(f"`{choice}`" for choice in found["enum"])
    return "list" if found["type"] == "array" else "mapping" if found["type"] == "object" else str(found["type"])
