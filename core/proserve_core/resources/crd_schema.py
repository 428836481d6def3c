"""Field descriptions as the structural OpenAPI schema of a CustomResourceDefinition.

What a schema can't say is CEL (`Rule`, and here: ranges of durations and quantities, names in maps, unique items).
The cost of a rule is estimated by the API server from the largest value, so texts, lists and maps have limits.

Not checked by the API server, but by whoever reads the resources: annotations (CEL sees no more of the metadata than
the name), and what holds between documents. Unknown fields are refused where the client asks for it, as kubectl does,
and dropped otherwise.
"""

import re
from typing import Any

from proserve_core.quantities import QUANTITY_LENGTH, QUANTITY_PATTERN
from proserve_core.resources.fields import (
    Anything,
    Boolean,
    Duration,
    Field,
    FieldType,
    FreeForm,
    Integer,
    ListOf,
    MapOf,
    Object,
    Quantity,
    Rule,
    SecretText,
    Text,
)
from proserve_core.resources.scalars import DURATION_LENGTH, DURATION_PATTERN

Schema = dict[str, Any]


def object_schema(kind: Object) -> Schema:
    """The schema of an object; fields in the order of their descriptions."""
    schema: Schema = {"type": "object"}
    required = [field.name for field in kind.fields if field.required]
    if required:
        schema["required"] = required
    schema["properties"] = {field.name: field_schema(field) for field in kind.fields}
    return schema | validations(kind.rules)


def field_schema(field: Field) -> Schema:
    """The schema of one field, with its description and default."""
    described: Schema = {"description": field.description}
    if field.default is not None:
        described["default"] = str(field.default) if isinstance(field.default, str) else field.default
    return described | _schema(field.type)


def validations(rules: tuple[Rule, ...]) -> Schema:
    """The CEL rules of a value."""
    if not rules:
        return {}
    return {
        "x-kubernetes-validations": [
            {"rule": rule.expression, "message": rule.message} | ({"fieldPath": rule.field} if rule.field else {})
            for rule in rules
        ]
    }


def _schema(kind: FieldType) -> Schema:
    match kind:
        case Integer():
            size = "int32" if kind.maximum < 2**31 else "int64"
            return {"type": "integer", "format": size, "minimum": kind.minimum, "maximum": kind.maximum}
        case Boolean():
            return {"type": "boolean"}
        case Text():
            return _text(kind) | validations(kind.rules)
        case Duration():
            rule = Rule(
                expression=f"duration(self) >= duration('{kind.minimum}') && duration(self) <= "
                f"duration('{kind.maximum}')",
                message=f"expected a duration from {kind.minimum} to {kind.maximum}, such as '500ms', '1.5s' or '2m'",
            )
            pattern = _whole(DURATION_PATTERN)
            return {"type": "string", "maxLength": DURATION_LENGTH, "pattern": pattern} | validations((rule,))
        case Quantity():
            return _quantity(kind)
        case FreeForm():
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        case ListOf():
            return _list(kind)
        case MapOf():
            return _map(kind)
        case Object():
            return object_schema(kind)
        case SecretText() | Anything():
            raise ValueError(f"{type(kind).__name__} has no place in a custom resource")


def _whole(pattern: str) -> str:
    return f"^({pattern})$"


def _text(kind: Text) -> Schema:
    if kind.choices:
        return {"type": "string", "enum": [str(choice) for choice in kind.choices]}
    return {"type": "string", "maxLength": kind.max_length, "pattern": _whole(kind.pattern)}


def _quantity(kind: Quantity) -> Schema:
    schema: Schema = {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": 0,
        "maxLength": QUANTITY_LENGTH,
        "pattern": _whole(QUANTITY_PATTERN),
    }
    if kind.maximum is None:
        return schema
    value = "quantity(string(self))"
    rule = Rule(
        expression=f"{value}.compareTo(quantity('{kind.minimum or 0}')) >= 0 && "
        f"{value}.compareTo(quantity('{kind.maximum}')) <= 0",
        message=f"expected a quantity from {kind.minimum or 0} to {kind.maximum}",
    )
    return schema | validations((rule,))


def _list(kind: ListOf) -> Schema:
    schema: Schema = {"type": "array", "maxItems": kind.max_items, "items": _schema(kind.items)}
    if kind.min_items:
        schema["minItems"] = kind.min_items
    if kind.keys:
        return schema | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(kind.keys)}
    if kind.unique and isinstance(kind.items, Text):
        return schema | {"x-kubernetes-list-type": "set"}
    schema["x-kubernetes-list-type"] = "atomic"
    if kind.unique:
        rule = Rule(
            expression="self.all(one, self.exists_one(other, one == other))",
            message="an entry is listed twice; remove one of the two",
        )
        schema |= validations((rule,))
    return schema


def _map(kind: MapOf) -> Schema:
    rule = Rule(
        expression=f"self.all(key, key.size() <= {kind.keys.max_length} && "
        f"key.matches({_literal(_whole(kind.keys.pattern))}))",
        message=f"a key is not {kind.keys.form.removeprefix('a ')}",
    )
    schema: Schema = {"type": "object", "maxProperties": kind.max_items, "additionalProperties": _schema(kind.values)}
    return schema | validations((rule,))


def _literal(pattern: str) -> str:
    """A raw CEL string."""
    if re.search(r"['\n]", pattern):
        raise ValueError(f"no quotes or line ends in the pattern of a name: {pattern}")
    return f"r'{pattern}'"
