"""The field reference of the custom resources as Markdown, made from the field descriptions."""

from collections.abc import Iterator

from proserve_core.resources.fields import (
    Anything,
    Boolean,
    Duration,
    Effect,
    Field,
    FieldType,
    FreeForm,
    Integer,
    ListOf,
    MapOf,
    Object,
    Quantity,
    SecretText,
    Text,
)
from proserve_core.resources.kinds import Kind
from proserve_core.resources.parse import CUSTOM_KINDS

_EFFECT_NOTE = {
    Effect.FULL: "",
    Effect.CLUSTER_ONLY: " *For engines in a cluster; no effect with `proserve up`.*",
    Effect.NOT_YET: " *Accepted, no effect in this version.*",
}


def reference_markdown() -> str:
    """Tables of all fields of all custom kinds."""
    return "\n".join(line for kind in CUSTOM_KINDS for line in _kind(kind)).rstrip() + "\n"


def _kind(kind: Kind) -> Iterator[str]:
    scope = "namespaced" if kind.namespaced else "cluster-scoped"
    yield f"### {kind.name} (`{kind.api_version}`, {scope})"
    yield ""
    yield kind.description
    yield ""
    yield "| Field | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    yield from _rows(kind.fields, "")
    for annotation in kind.annotations:
        yield _row(annotation, f"annotation {annotation.name}", required=False)
    yield ""


def _rows(fields: tuple[Field, ...], path: str) -> Iterator[str]:
    for field in fields:
        field_path = f"{path}.{field.name}" if path else field.name
        yield _row(field, field_path, required=field.required)
        inner = field.type
        while isinstance(inner, ListOf):
            field_path += "[]"
            inner = inner.items
        if isinstance(inner, Object):
            yield from _rows(inner.fields, field_path)


def _row(field: Field, path: str, *, required: bool) -> str:
    default = "required" if required else "" if field.default is None else f"`{_yaml(field.default)}`"
    meaning = f"{field.description}{_EFFECT_NOTE[field.effect]}"
    return f"| `{path}` | {_type(field.type)} | {default} | {meaning} |"


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(kind: FieldType) -> str:
    match kind:
        case Integer():
            bounded = kind.maximum != Integer(minimum=0).maximum
            return f"integer, {kind.minimum} to {kind.maximum}" if bounded else f"integer, {kind.minimum} or more"
        case Boolean():
            return "boolean"
        case Text():
            return "one of " + ", ".join(f"`{choice}`" for choice in kind.choices) if kind.choices else kind.label
        case Duration():
            return f"duration, {kind.minimum} to {kind.maximum}"
        case Quantity():
            return f"quantity, {kind.minimum or 0} to {kind.maximum}" if kind.maximum else "quantity"
        case FreeForm():
            return "mapping"
        case SecretText():
            return "secret"
        case Anything():
            return "anything"
        case ListOf():
            return f"list of {_type(kind.items)}"
        case MapOf():
            return f"mapping to {_type(kind.values)}"
        case Object():
            return "object"
